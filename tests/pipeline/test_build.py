"""`pipeline.build`, which does what `pipeline build` does, and how its results print."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline
from pipeline.errors import OptionError, QuantizationError, SampleError
from tests.models import ModelBuilder, import_test_model

CHANNELS = 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model of two convolutions; x: [1, 4, 3, 3]."""
    b = ModelBuilder()
    weights = [b.constant(np.full((CHANNELS, CHANNELS, 1, 1), v, "float32")) for v in (0.1, 0.2)]
    x = b.node("Conv", b.node("Conv", "x", weights[0], name="first"), weights[1], name="second")
    onnx.save(b.model({"x": (1, CHANNELS, 3, 3)}, x), tmp_path / "two.onnx")
    return tmp_path / "two.onnx"


@pytest.fixture
def float_only(tmp_path: Path) -> Path:
    """Return a model without an operator that becomes int8."""
    b = ModelBuilder()
    onnx.save(b.model({"x": (1, CHANNELS, 3, 3)}, b.node("Softmax", "x", axis=1)), tmp_path / "soft.onnx")
    return tmp_path / "soft.onnx"


def samples(count: int = 3) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    yield from (random.standard_normal((CHANNELS, 3, 3)).astype("float32") for _ in range(count))


def test_a_model_is_built_by_one_call(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    report = pipeline.build(model, samples, targets="host", output=out, algorithm="ABS_MAX", skip=["second"])
    assert report.algorithm == "abs_max"
    assert [library.path for library in report.libraries] == [str(out / "two.host.so")]
    assert {o.name: o.precision for o in report.annotation.operators}["second"] == "float32"
    assert report.agreement is not None
    outputs = pipeline.Runner(out / "two.host.so").run({"x": np.zeros((1, CHANNELS, 3, 3), "float32")})
    assert outputs["second"].shape == (1, CHANNELS, 3, 3)


def test_progress_counts_batches_and_knows_the_total(model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    given = list(samples(3))
    pipeline.build(model, given, output=tmp_path, check=False, progress=lambda *state: told.append(state))
    assert [(done, total) for what, done, total in told if what == "calibrating"] == [(i, 3) for i in range(4)]
    stages = list(dict.fromkeys(what for what, _, _ in told))
    assert stages == ["importing", "verifying the import", "calibrating", "building for host"]


def test_samples_that_can_be_read_once_are_counted_as_they_come(model: Path, tmp_path: Path) -> None:
    told = []
    options = {"check": False, "verify_import": False, "output": tmp_path}
    pipeline.build(model, samples(2), progress=lambda *state: told.append(state), **options)
    assert ("calibrating", 2, None) in told


def test_weights_of_4_bits_take_half_the_bytes_in_a_library(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    b = ModelBuilder()
    y = b.node("MatMul", "x", b.constant(random.standard_normal((512, 1024)).astype("float32")))
    float_model = import_test_model(b.model({"x": [1, 512]}, y))
    samples = [random.standard_normal((1, 512)).astype("float32") for _ in range(4)]
    sizes = {}
    for bits in (4, 8):
        path = tmp_path / f"{bits}.so"
        pipeline.quantize(float_model, samples, weight_bits=bits, effort="none").build("host", path)
        sizes[bits] = path.stat().st_size
    assert 0.45 * 512 * 1024 < sizes[8] - sizes[4] < 0.55 * 512 * 1024


def test_nothing_in_int8_is_not_success(float_only: Path, tmp_path: Path) -> None:
    def unread() -> Iterator[np.ndarray]:
        raise AssertionError("calibration was begun")
        yield

    with pytest.raises(
        QuantizationError, match=r"0 of \d operators in int8, .*reasons(.|\n)*softmax: .*(.|\n)*allow_float"
    ):
        pipeline.build(float_only, unread, output=tmp_path / "out", verify_import=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_in_int8_may_be_asked_for(float_only: Path, tmp_path: Path) -> None:
    report = pipeline.build(float_only, samples, output=tmp_path / "out", allow_float=True)
    assert Path(report.libraries[0].path).exists()


def test_nothing_in_int8_is_a_warning_where_the_float_library_is_asked_for(
    float_only: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = pipeline.build(float_only, samples, output=tmp_path / "out", float_library=True)
    assert caplog.text.count("operators in int8, so int8 would gain nothing") == 1
    assert len(list((tmp_path / "out").glob("*.so"))) == 2
    assert report.annotation.summary().startswith("0 of")


def quantized_already(path: Path, *nodes: onnx.NodeProto) -> Path:
    """Write a model whose nodes lead from x to y by way of 8-bit tensors."""
    weight = numpy_helper.from_array(np.eye(4, dtype="uint8"), "w")
    scale, zero = (numpy_helper.from_array(v, n) for v, n in ((np.float32(0.1), "s"), (np.uint8(128), "z")))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, scale, zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_that_is_quantized_already_is_told_from_one_that_holds_nothing(tmp_path: Path) -> None:
    model = quantized_already(
        tmp_path / "dynamic.onnx",
        helper.make_node("DynamicQuantizeLinear", ["x"], ["quantized", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["quantized", "w", "zero", "z"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["y"]),
    )
    message = r"quantized already \(1 x DynamicQuantizeLinear, 1 x MatMulInteger\).* Use the float model"
    with pytest.raises(QuantizationError, match=message):
        pipeline.build(model, [np.ones(4, "float32")], output=tmp_path, verify_import=False)


def test_pairs_of_quantization_are_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = quantized_already(
        tmp_path / "pairs.onnx",
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["quantized"]),
        helper.make_node("DequantizeLinear", ["quantized", "s", "z"], ["y"]),
    )
    options = {"output": tmp_path, "verify_import": False, "allow_float": True}
    pipeline.build(model, [np.ones(4, "float32")], **options)
    assert "quantized already (1 x DequantizeLinear, 1 x QuantizeLinear)" in caplog.text


def test_a_wrong_option_ends_a_build_before_its_work(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Did you mean 'algorithm'"):
        pipeline.build(tmp_path / "none.onnx", [], algoritm="kl")
    with pytest.raises(OptionError, match="Did you mean 'algorithm'"):
        pipeline.quantize(None, algoritm="kl")


def test_a_recipe_has_its_own_samples(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="A recipe has its own samples"):
        pipeline.build("digits.toml", samples, output=tmp_path)


def test_a_folder_of_samples_that_is_not_there_is_known_of_before_the_import(tmp_path: Path) -> None:
    def refuse(what: str, done: int, total: int | None) -> None:
        raise AssertionError(f"{what} was begun")

    with pytest.raises(SampleError, match="doesn't exist"):
        pipeline.build(tmp_path / "none.onnx", tmp_path / "none", output=tmp_path, progress=refuse)


def test_samples_are_asked_for(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="Neither samples nor a calibration table"):
        pipeline.build(model, output=tmp_path)


def test_a_quantized_model_makes_the_folder_of_its_library(model: Path, tmp_path: Path) -> None:
    quantized = pipeline.quantize(pipeline.load(model), samples)
    assert quantized.build("host", tmp_path / "a" / "b" / "two.so").exists()


def test_objects_say_in_a_few_lines_what_they_are(model: Path, tmp_path: Path) -> None:
    program = pipeline.load(model)
    quantized = pipeline.quantize(program, samples)
    runner = pipeline.Runner(quantized.build("host", tmp_path / "two.so"), 1)
    report = pipeline.build(model, samples, output=tmp_path / "out")
    inputs, outputs = "  inputs   x: 1x4x3x3 float32", "  outputs  second: 1x4x3x3 float32"
    for value, first in (
        (program, "<Program two: "),
        (quantized, "<Quantized two: "),
        (runner, "<Runner two: int8, for "),
    ):
        lines = repr(value).splitlines()
        assert lines[0].startswith(first)
        assert lines[1:] == [inputs, f"{outputs}>"]
    assert "operators in int8, calibrated with 3 samples" in repr(quantized)
    assert repr(report).splitlines()[1] == f"  {tmp_path / 'out' / 'two.host.so'}>"


def test_type_checkers_see_what_is_imported_at_run_time() -> None:
    assert (Path(pipeline.__file__).parent / "py.typed").exists()
    tree = ast.parse(Path(pipeline.__file__).read_text(encoding="utf-8"))
    declared = {
        alias.name: getattr(importlib.import_module(str(node.module)), alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == {name: getattr(pipeline, name) for name in pipeline.__all__}


def test_a_report_is_json(model: Path, tmp_path: Path) -> None:
    report = pipeline.build(model, samples, output=tmp_path)
    assert json.loads(json.dumps(report.to_dict()))["model"] == "two"


def test_the_version_is_that_of_the_installed_package() -> None:
    assert pipeline.__version__ == importlib.metadata.version("onnx-int8-pipeline")


@pytest.mark.parametrize(
    ("version", "release"),
    [("0.1.0", "0.1.0"), ("0.1.0.post1.dev334+gf77777a3e", "0.1.0"), ("1.2.dev3", "1.2"), ("1.0rc1+g1.d2", "1.0")],
)
def test_libraries_hold_the_release_and_not_the_commit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, release: str
) -> None:
    monkeypatch.setattr("pipeline.compiler.build.version", lambda _: version)
    library = pipeline.compile_program(pipeline.load(model), pipeline.load_target("host"), tmp_path / "two.so")
    assert pipeline.read_metadata(library).versions["onnx-int8-pipeline"] == release
