"""The three calls of the Python interface."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

import pipeline
from pipeline.errors import SampleError, TableError
from pipeline.library.metadata import read_metadata
from pipeline.recipes import load_recipe, prepare
from tests.models import import_test_model, small_network


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepared = prepare(load_recipe("digits"))
    model = pipeline.load(prepared.model, prepared.shapes)
    quantized = pipeline.quantize(model, prepared.calibration, algorithm="kl")
    return quantized.build("host", tmp_path_factory.mktemp("out") / "digits.host.so")


def test_threads_may_build_at_the_same_time(tmp_path: Path) -> None:
    onnx.save(small_network(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((8, 3, 12, 12)).astype("float32")

    def build(name: str) -> bytes:
        quantized = pipeline.quantize(pipeline.load(tmp_path / "model.onnx"), list(x), effort="none")
        return quantized.build("host", tmp_path / name / "model.so").read_bytes()

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(build, "abc"))) == 1


def test_a_real_model_answers_right(library: Path) -> None:
    runner = pipeline.Runner(library)
    samples = list(prepare(load_recipe("digits")).evaluation())
    right = sum(int(runner.run(s.feeds)["scores"].argmax()) == s.label for s in samples)
    assert right >= 0.985 * len(samples)


def test_the_library_says_what_it_is(library: Path) -> None:
    metadata = read_metadata(library)
    assert (metadata.model, metadata.kind) == ("digits", "int8")
    assert [vars(i) for i in metadata.inputs] == [{"name": "image", "shape": (1, 1, 28, 28), "dtype": "float32"}]
    assert metadata.int8_operators > 10
    assert all(q.scale > 0 for q in metadata.quantization.values())


@pytest.mark.parametrize("target", ["x86-64-v3", "android-arm64"])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, target: str) -> None:
    libraries = []
    for folder in ("a", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
        random = np.random.default_rng(0)
        samples = [random.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(2)]
        quantized = pipeline.quantize(import_test_model(small_network()), samples)
        libraries.append(quantized.build(target, tmp_path / folder / "m.so").read_bytes())
    assert libraries[0] == libraries[1]


def test_running_does_not_load_the_compiler(library: Path) -> None:
    code = (
        "import sys, numpy, pipeline; r = pipeline.Runner(sys.argv[1]); "
        "r.run({'image': numpy.zeros((1, 1, 28, 28), 'float32')}); "
        "maps = open('/proc/self/maps').read(); assert 'libtvm_compiler' not in maps, 'compiler loaded'"
    )
    subprocess.run([sys.executable, "-c", code, str(library)], check=True)


def test_a_table_can_be_used_again_and_only_for_its_own_model() -> None:
    program = import_test_model(small_network())
    random = np.random.default_rng(0)
    first = pipeline.quantize(program, [random.standard_normal((1, 3, 12, 12)).astype("float32")])
    again = pipeline.quantize(program, table=first.table)
    assert again.program.module.script() == first.program.module.script()
    foreign = msgspec.structs.replace(first.table, model_sha256="1" * 64)
    with pytest.raises(TableError, match="was made for another model"):
        pipeline.quantize(program, table=foreign)


def test_no_samples_are_an_error() -> None:
    with pytest.raises(SampleError, match="No samples to calibrate with"):
        pipeline.quantize(import_test_model(small_network()))


def test_every_exported_name_exists_and_nothing_else_does() -> None:
    assert pipeline.__all__ == sorted(pipeline.__all__)
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pipeline.nothing
