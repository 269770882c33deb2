"""What users see: progress, errors, suggestions, completion, tables; and that help doesn't load the compiler."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.shell_completion import ShellComplete
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli import cli
from pipeline.cli.console import Pace, progress, show, steps_text
from tests.cli.commands import run
from tests.docs.given import write_models
from tests.models import ModelBuilder

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def model(tmp_path: Path, monkeypatch: Patch) -> str:
    """Return a model of one convolution in the working folder, beside a folder of three samples."""
    monkeypatch.chdir(tmp_path)
    b = ModelBuilder()
    x = b.node("Conv", "x", b.constant(np.ones((2, 2, 1, 1), "float32")), name="y")
    onnx.save(b.model({"x": (1, 2, 3, 3)}, x), "one.onnx")
    soft = ModelBuilder()
    onnx.save(soft.model({"x": (1, 2, 3, 3)}, soft.node("Softmax", "x", axis=1)), "soft.onnx")
    Path("samples").mkdir()
    for i in range(3):
        np.save(f"samples/{i}.npy", np.full((2, 3, 3), i, "float32"))
    return "one.onnx"


def test_steps_are_lines_where_there_is_no_terminal(capsys: Capture, monkeypatch: Patch, model: str) -> None:
    code, _, errors = run(capsys, monkeypatch, "build", model, "--samples", "samples")
    assert code == 0
    steps = ["importing", "verifying the import", "calibrating", "building for host", "comparing with float"]
    said = errors.splitlines()
    assert [line for line in said if line in steps] == steps
    assert any(line.startswith("calibrating: 3 of 3") for line in said)


def test_quiet_says_nothing_but_the_result(capsys: Capture, monkeypatch: Patch, model: str) -> None:
    code, out, errors = run(capsys, monkeypatch, "build", model, "--samples", "samples", "--quiet")
    assert (code, errors) == (0, "")
    assert "operators in int8" in out
    assert logging.getLogger().level == logging.ERROR


def test_verbose_says_how_long_each_step_took(capsys: Capture, monkeypatch: Patch, model: str) -> None:
    code, _, errors = run(capsys, monkeypatch, "build", model, "--samples", "samples", "-v")
    assert code == 0
    timed = [line.rpartition(": ")[0] for line in errors.splitlines() if line.endswith(" s")]
    assert timed == ["importing", "verifying the import", "calibrating", "building for host", "comparing with float"]


def test_quiet_holds_for_one_command(capsys: Capture, monkeypatch: Patch) -> None:
    run(capsys, monkeypatch, "targets", "--quiet")
    run(capsys, monkeypatch, "targets")
    assert logging.getLogger().level == logging.WARNING


ERRORS = {
    "usage": (["build", "--jsn", "--json"], "UsageError", 2, "--jsn"),
    "command": (["biuld", "--json"], "UsageError", 2, "Did you mean 'build'"),
    "missing": (["build", "none.onnx", "--samples", "samples", "--json"], "ModelError", 2, "none.onnx"),
    "option": (["build", "one.onnx", "--algorithm", "kll", "--json"], "OptionError", 2, "Did you mean 'kl'"),
    "float": (["build", "soft.onnx", "--samples", "samples", "--json"], "QuantizationError", 1, "--allow-float"),
}


@pytest.mark.parametrize(("arguments", "kind", "code", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_json_where_json_is_asked_for(
    capsys: Capture, monkeypatch: Patch, model: str, arguments: list[str], kind: str, code: int, message: str
) -> None:
    ended, out, errors = run(capsys, monkeypatch, *arguments)
    error = json.loads(out)["error"]
    assert (ended, error["exit_code"], error["kind"]) == (code, code, kind)
    assert message in error["message"]
    assert message in " ".join(errors.split())


def test_a_fault_and_an_interrupt_are_json_too(capsys: Capture, monkeypatch: Patch) -> None:
    for error, kind in ((KeyError("lost"), "InternalError"), (KeyboardInterrupt(), "Interrupted")):

        def list_targets(error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("pipeline.cli.targets_command.list_targets", list_targets)
        _, out, _ = run(capsys, monkeypatch, "targets", "--json")
        assert json.loads(out)["error"]["kind"] == kind


def test_nothing_in_int8_ends_with_code_1_and_nothing_written(capsys: Capture, monkeypatch: Patch, model: str) -> None:
    code, out, errors = run(capsys, monkeypatch, "build", "soft.onnx", "--samples", "samples")
    assert (code, out) == (1, "")
    assert "operators in int8, so int8 would gain nothing" in errors
    assert list(Path("out").iterdir()) == []
    code, _, _ = run(capsys, monkeypatch, "build", "soft.onnx", "--samples", "samples", "--allow-float")
    assert code == 0


def test_a_model_that_is_quantized_already_is_warned_of_where_it_is_inspected(
    capsys: Capture, monkeypatch: Patch, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    Path("given").mkdir()
    write_models(Path("given"))
    code, _, _ = run(capsys, monkeypatch, "inspect", "given/quantized.onnx")
    assert code == 0
    assert "quantized already (1 x DequantizeLinear, 1 x QuantizeLinear)" in caplog.text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["b"], {"bench", "build"}),
        (["build", "--target", "android"], {"android-arm64", "android-arm64-dotprod", "android-arm64-i8mm"}),
        (["build", "--target", "h"], {"host"}),
        (["demo", "--algorithm", "K"], {"kl"}),
        (["build", "--batch-s"], {"--batch-size"}),
        (["build", "--algorithm"], {"--algorithm", "--algorithm-option"}),
    ],
)
def test_the_shell_completes(words: list[str], expected: set[str]) -> None:
    complete = ShellComplete(cli, {}, "pipeline", "_PIPELINE_COMPLETE")
    assert {item.value for item in complete.get_completions(words[:-1], words[-1])} == expected


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["demo", "--help"], ["inspect", "--help"]])
def test_help_needs_no_compiler(arguments: list[str]) -> None:
    code = (
        "import sys; from pipeline.cli import cli; cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print([name for name in ('onnx', 'pydantic', 'tvm') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_every_command_has_the_same_general_options() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert {"--json", "--quiet", "--verbose"} <= {flag for p in command.params for flag in p.opts}


@pytest.fixture
def library(capsys: Capture, monkeypatch: Patch, model: str) -> str:
    assert run(capsys, monkeypatch, "build", model, "--samples", "samples", "-q")[0] == 0
    return "out/one.host.so"


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "one.onnx", "--samples", "samples"],
        ["inspect", "one.onnx"],
        ["inspect", "out/one.host.so"],
        ["profile", "out/one.host.so", "--repeats", "1", "--no-limits"],
        ["bench", "out/one.host.so", "--repeats", "1"],
        ["targets"],
        ["models"],
    ],
    ids=" ".join,
)
def test_tables_fit_80_columns(capsys: Capture, monkeypatch: Patch, library: str, arguments: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, monkeypatch, *arguments)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_nothing_is_cut_off(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = "folder/" * 30

    def table() -> Table:
        made = Table("file", "bytes")
        made.add_row(path, "1")
        return made

    show({}, table, as_json=False)
    lines = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "/" in line]
    assert "".join(lines) == path


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (30, 300, 2.0, "30 of 300, 15.0/s, 0:00:18 left"),
        (300, 300, 20.0, "300 of 300, 15.0/s"),
        (30, None, 2.0, "30, 15.0/s"),
        (0, 300, 2.0, "0 of 300"),
        (1, 7201, 1.0, "1 of 7201, 1.0/s, 2:00:00 left"),
    ],
)
def test_progress_has_a_rate_and_the_time_left(done: int, total: int | None, seconds: float, text: str) -> None:
    assert steps_text(done, total, seconds) == text


def test_steps_of_an_earlier_run_and_what_is_done_before_the_first_step_do_not_count_as_fast_or_slow_ones() -> None:
    pace = Pace()
    assert pace.text(0, 300, 100.0) == "0 of 300"
    assert pace.text(200, 300, 109.0) == "200 of 300"
    assert pace.text(210, 300, 114.0) == "210 of 300, 2.0/s, 0:00:45 left"


def test_on_a_terminal_progress_is_one_line_that_changes(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr("pipeline.cli.console.messages", Console(stderr=True, force_terminal=True, width=80))
    with progress() as tell:
        tell("importing", 0, None)
        tell("calibrating", 0, 4)
        tell("calibrating", 4, 4)
    shown = capsys.readouterr().err
    last = Text.from_ansi(shown[shown.rindex("calibrating") :]).plain
    assert re.fullmatch(r"calibrating ━+ 4 of 4\s*", last)
    assert "importing" not in last
