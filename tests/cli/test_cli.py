"""The command line as a user meets it: what it prints, and how it refuses."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.table import Table

import pipeline
from pipeline.cli.console import show
from pipeline.data import data_directory
from pipeline.errors import ModelError
from pipeline.library.metadata import read_metadata
from tests.cli.commands import run
from tests.models import ModelBuilder, small_network
from tests.runtime.servers import free_port, rpc_server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(small_network(), path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        np.save(folder / f"{i}.npy", random.standard_normal((3, 12, 12)).astype("float32"))
    return folder


def test_a_model_is_built_run_timed_and_inspected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path, samples: Path
) -> None:
    out = tmp_path / "out"
    code, text, _ = run(capsys, monkeypatch, "build", model, "--samples", samples, "-o", out, "--json")
    assert code == 0
    report = json.loads(text)
    library = Path(report["libraries"][0]["path"])
    assert library == out / "small.host.so"
    assert report["agreement"]["samples"] == 3

    np.savez(tmp_path / "x.npz", x=np.load(samples / "0.npy")[None])
    code, text, _ = run(
        capsys, monkeypatch, "run", library, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz"
    )
    assert code == 0
    assert "scores" in text
    with np.load(tmp_path / "y.npz") as outputs:
        assert outputs["scores"].shape == (1, 5)

    code, text, _ = run(capsys, monkeypatch, "bench", library, "--repeats", 3, "--threads", 1, "--json")
    assert (code, json.loads(text)["runs"]) == (0, 3)

    options = ("--repeats", 2, "--threads", 1, "--no-limits")
    code, text, _ = run(capsys, monkeypatch, "profile", library, "--json", *options)
    profiled = json.loads(text)
    assert (code, profiled["threads"], profiled["operators"][-1]["name"]) == (0, 1, "scores")
    # A narrow terminal shows no kernels.
    monkeypatch.setenv("COLUMNS", "250")
    code, text, errors = run(capsys, monkeypatch, "profile", library, "--sort", "time", *options)
    monkeypatch.delenv("COLUMNS")
    assert (code, errors) == (0, "")
    assert all(o["kernel"] in text for o in profiled["operators"])

    code, text, _ = run(capsys, monkeypatch, "inspect", library, "--json")
    assert (code, json.loads(text)["kind"]) == (0, "int8")

    edited = out / "small.calibration.json"
    code, text, _ = run(
        capsys, monkeypatch, "build", model, "--calibration", edited, "-o", out, "--target", "linux-aarch64", "--json"
    )
    assert (code, json.loads(text)["algorithm"]) == (0, "given table")


def test_a_model_is_inspected_before_it_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    code, text, _ = run(capsys, monkeypatch, "inspect", model)
    assert code == 0
    assert "faster in int8" in text
    code, text, _ = run(capsys, monkeypatch, "inspect", model, "--json")
    found = json.loads(text)
    operators = {o["name"]: o["operator"] for o in found["operators"]}
    became = {n["operator"]: [operators[v] for v in n["variables"]] for n in found["nodes"]}
    assert (code, became["ConvTranspose"]) == (0, ["conv2d_transpose"])


@pytest.mark.parametrize("command", ["targets", "models"])
def test_listings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    code, text, _ = run(capsys, monkeypatch, command, "--json")
    names = [row["name"] for row in json.loads(text)[command]]
    assert code == 0
    assert {"targets": "android-arm64", "models": "digits"}[command] in names
    assert run(capsys, monkeypatch, command)[0] == 0


def test_a_library_is_run_and_timed_on_a_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path, samples: Path
) -> None:
    library = tmp_path / "out" / "small.host.so"
    assert run(capsys, monkeypatch, "build", model, "--samples", samples, "-o", tmp_path / "out")[0] == 0
    np.savez(tmp_path / "x.npz", x=np.load(samples / "0.npy")[None])
    answers = []
    with rpc_server() as port:
        for where in ((), ("--rpc", f"127.0.0.1:{port}")):
            arguments = ["run", library, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz", *where]
            assert run(capsys, monkeypatch, *arguments)[0] == 0
            answers.append((tmp_path / "y.npz").read_bytes())
        code, text, _ = run(
            capsys, monkeypatch, "bench", library, "--rpc", f"127.0.0.1:{port}", "--repeats", 2, "--json"
        )
    assert answers[0] == answers[1]
    assert (code, json.loads(text)["runs"]) == (0, 2)

    code, _, err = run(capsys, monkeypatch, "bench", library, "--rpc", f"127.0.0.1:{free_port()}")
    assert code == 1
    assert "No RPC server can be reached" in err


def test_names_that_look_like_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[/bold] [red]:smile:[/red]"

    def table() -> Table:
        made = Table(name)
        made.add_row(name)
        return made

    show({}, table, as_json=False)
    assert capsys.readouterr().out.count(name) == 2


Refusal = tuple[str, list[str], str]

REFUSALS: list[Refusal] = [
    ("missing_model", ["build", "none.onnx", "--samples", "samples"], "none.onnx can't be read"),
    ("empty_model", ["build", "empty.onnx", "--samples", "samples"], "is empty"),
    ("not_onnx", ["build", "text.onnx", "--samples", "samples"], "isn't an ONNX"),
    ("unsupported", ["build", "unsupported.onnx", "--samples", "samples"], "StringNormalizer"),
    ("no_samples", ["build", "small.onnx"], "Neither samples nor a calibration table"),
    ("samples_missing", ["build", "small.onnx", "--samples", "nowhere"], "doesn't exist"),
    ("samples_wrong_shape", ["build", "small.onnx", "--samples", "wrong"], "expected (1, 3, 12, 12)"),
    ("samples_not_finite", ["build", "small.onnx", "--samples", "nan"], "NaN or infinity"),
    ("zero_batches", ["build", "small.onnx", "--samples", "samples", "--batch-nums", "0"], "at least 1"),
    ("target", ["build", "small.onnx", "--samples", "samples", "--target", "hots"], "Did you mean 'host'"),
    ("target_key", ["build", "small.onnx", "--samples", "samples", "--target", "./typo.toml"], "typo.toml"),
    ("target_twice", ["build", "small.onnx", "--target", "x86-64-v3", "--target", "./same.toml"], "would be one file"),
    ("algorithm", ["build", "small.onnx", "--samples", "samples", "--algorithm", "kll"], "Did you mean 'kl'"),
    ("operator", ["build", "small.onnx", "--samples", "samples", "--operator", "convv2d"], "Did you mean"),
    ("skip", ["build", "small.onnx", "--samples", "samples", "--skip", "nope"], "skip list"),
    ("shape_text", ["build", "small.onnx", "--samples", "samples", "--shape", "x"], "expected NAME=D,D"),
    ("shape", ["build", "small.onnx", "--samples", "samples", "--shape", "x=1,3,9,9"], "contradicts the model"),
    ("table", ["build", "small.onnx", "--calibration", "text.onnx"], "The calibration table text.onnx is wrong"),
    ("output_is_file", ["build", "small.onnx", "--samples", "samples", "-o", "text.onnx"], "can't be made"),
    ("recipe", ["build", "nothing.toml"], "can't be read"),
    ("demo_model", ["demo", "--model", "digit"], "Did you mean 'digits'"),
    ("library", ["run", "text.onnx", "--input", "x.npy"], "text.onnx"),
    ("library_missing", ["inspect", "none.so"], "none.so"),
    ("option", ["build", "small.onnx", "--sample", "samples"], "No such option"),
    ("paddleslims_option", ["build", "small.onnx", "--algo", "KL"], "It is called algorithm (--algorithm) here"),
    ("paddle_lites_option", ["build", "small.onnx", "--quant_model=true"], "Quantizing weights alone isn't there"),
    ("command", ["biuld"], "Unknown command 'biuld'"),
]


@pytest.mark.parametrize(("arguments", "message"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_a_mistake_is_one_clear_error(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: Path,
    samples: Path,
    arguments: list[str],
    message: str,
) -> None:
    assert model.exists()
    assert samples.exists()
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("hello")
    shutil.copy(data_directory("targets") / "x86-64-v3.toml", tmp_path / "same.toml")
    (tmp_path / "typo.toml").write_text('name = "typo"\ntripple = "x"\n')
    b = ModelBuilder()
    onnx.save(b.model({"x": (1, 3)}, b.node("StringNormalizer", "x")), tmp_path / "unsupported.onnx")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 12, 12), "float32"))
    for name, value in (("wrong", np.ones((1, 2), "float32")), ("nan", np.full((3, 12, 12), np.nan, "float32"))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", value)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in out + err
    left = [p for p in tmp_path.iterdir() if p not in before]
    assert [p for folder in left for p in folder.rglob("*") if p.is_file()] == [], "nothing half-written"


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "--tune"],
        ["build", "--max-drop", "0.01", "--operator-times"],
        ["build", "--calibration"],
        ["build", "--annotation"],
        ["sensitivity", "--state"],
    ],
    ids=lambda arguments: arguments[-1],
)
def test_a_damaged_file_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    samples: Path,
    tmp_path: Path,
    arguments: list[str],
) -> None:
    (tmp_path / "damaged").write_text("{")
    command, *options = [*arguments, tmp_path / "damaged"]
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, monkeypatch, command, model, "--samples", samples, *options)
    assert code == 2
    assert "damaged is wrong. Input data was truncated" in " ".join(err.split())
    assert "importing" not in err


def test_an_input_that_never_changes_is_left_out_of_samples_and_library(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    b, random = ModelBuilder(), np.random.default_rng(0)
    weights = b.constant(random.standard_normal((8, 4)).astype("float32"))
    y = b.node("Mul", b.node("MatMul", "x", weights), "speed")
    onnx.save(b.model({"x": (1, 8), "speed": (1, 1)}, y), tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", x=random.standard_normal((40, 8)).astype("float32"))
    monkeypatch.chdir(tmp_path)
    arguments = ["m.onnx", "--samples", "s.npz", "--json", "--effort", "none"]
    code, text, _ = run(capsys, monkeypatch, "build", *arguments)
    assert (code, "the model's inputs are ['speed', 'x']" in text) == (2, True)
    code, text, _ = run(capsys, monkeypatch, "build", *arguments, "--fix", "speed=1.5")
    assert code == 0
    assert [i.name for i in read_metadata(tmp_path / "out" / "m.host.so").inputs] == ["x"]
    code, text, _ = run(capsys, monkeypatch, "compare", *arguments, "--fix", "speed=1.5")
    assert (code, json.loads(text)["tensors"][0]["name"]) == (0, "x")
    code, text, _ = run(capsys, monkeypatch, "sensitivity", *arguments, "--fix", "speed=1.5")
    assert (code, "--fix speed=1.5" in json.loads(text)["command"]) == (0, True)


@pytest.mark.parametrize(
    ("command", "option", "path"),
    [
        ("build", "--output", "/proc/self"),
        ("build", "--tune", "/proc/self/tuned.json"),
        ("build", "--resume", "/proc/self/state"),
        ("build", "--operator-times", "/proc/self/times.json"),
        ("quantize", "--output", "/proc/self/model.onnx"),
        ("compare", "--plot", "/proc/self/plot.svg"),
        ("sensitivity", "--plot", "/proc/self/plot.svg"),
        ("sensitivity", "--state", "/proc/self/state.json"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: Path,
    samples: Path,
    command: str,
    option: str,
    path: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--max-drop", "1%"] if option == "--operator-times" else []
    code, _, err = run(capsys, monkeypatch, command, model, "--samples", samples, option, path, *more)
    assert code == 2
    assert "isn't writable" in err
    assert "calibrating" not in err


def test_the_program_itself_ends_with_code_2(tmp_path: Path, samples: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "build", str(tmp_path / "none.onnx")]
    result = subprocess.run([*command, "--samples", str(samples)], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    said, error = result.stderr.splitlines()
    assert said == "importing"
    assert error.startswith("error: ")


def test_a_file_name_that_the_locale_has_no_letters_for_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "inspect", "modèle.onnx"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == 2
    assert "isn't text in ascii" in result.stderr
    assert "LC_ALL=C.UTF-8" in result.stderr


def test_a_fault_of_this_package_keeps_its_traceback_and_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_targets() -> None:
        raise KeyError("lost")

    monkeypatch.setattr("pipeline.cli.targets_command.list_targets", list_targets)
    code, _, error = run(capsys, monkeypatch, "targets")
    assert code == 70
    assert "KeyError: 'lost'" in error
    assert "Please report it" in error


def test_json_is_strict_whatever_was_computed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    b = ModelBuilder()
    empty = b.node("Slice", "x", b.constant(np.array([0])), b.constant(np.array([0])))
    onnx.save(b.model({"x": (2,)}, b.node("Log", "x"), empty), tmp_path / "log.onnx")
    program = pipeline.import_model(tmp_path / "log.onnx")
    library = pipeline.compile_program(program, pipeline.load_target("host"), tmp_path / "log.so")
    np.savez(tmp_path / "x.npz", x=np.array([-1.0, 0.0], "float32"))
    code, text, _ = run(capsys, monkeypatch, "run", library, "--input", tmp_path / "x.npz", "--json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} isn't JSON")

    assert code == 0
    rows = json.loads(text, parse_constant=refuse)["outputs"]
    assert [(row["minimum"], row["maximum"]) for row in rows] == [(None, None), (None, None)]
    assert [(row["shape"], row["argmax"]) for row in rows] == [([2], 0), ([0], None)]
    code, text, _ = run(capsys, monkeypatch, "run", library, "--input", tmp_path / "x.npz")
    assert (code, "nan" in text) == (0, True)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_output_that_cannot_be_written_is_said(form: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "targets", *form]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: Standard output can't be written: ")
    assert len(result.stderr.splitlines()) == 1


def test_names_that_standard_output_cannot_spell_are_printed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(memory, "ascii"))
    show({}, lambda: Table("größe"), as_json=False)
    sys.stdout.flush()
    assert rb"gr\xf6\xdfe" in memory.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ModelError])
def test_an_interrupt_ends_with_code_130_whatever_becomes_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def list_targets() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as interrupt:
            raise error from interrupt

    monkeypatch.setattr("pipeline.cli.targets_command.list_targets", list_targets)
    # Shells have what they start in the background ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, out, err = run(capsys, monkeypatch, "targets")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, out, err.strip()) == (130, "", "Interrupted.")
