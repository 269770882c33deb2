"""arm64 libraries, loaded by an emulated arm64 Python, compute the bytes that the host computes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.api import Quantized, load, quantize
from pipeline.recipes import load_recipe, prepare
from pipeline.runtime.local import Runner
from pipeline.runtime.rpc import RemoteRunner
from tests.models import ModelBuilder, import_test_model
from tests.runtime.conftest import LibraryFor
from tests.runtime.emulation import Aarch64Python
from tests.runtime.models import sample
from tests.runtime.servers import free_port, process

CPUS = {
    "linux-aarch64": "cortex-a53",
    "android-arm64": "cortex-a53",
    "android-arm64-dotprod": "cortex-a76",
    "android-arm64-i8mm": "max,pauth-impdef=on",
}
"""For each target, the least CPU that has what it needs."""


def mixed_network() -> onnx.ModelProto:
    """Return a network with a layer of every kind that 16 bits have a form for; x: [1,3,12,12]."""
    random, b = np.random.default_rng(0), ModelBuilder()

    def conv(x: str, shape: tuple[int, ...], name: str, **attributes: int) -> str:
        weight = (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")
        return b.node("Conv", x, b.constant(weight), pads=[shape[2] // 2] * 4, name=name, **attributes)

    stem = b.node("HardSwish", conv("x", (18, 3, 3, 3), "sums"), name="stem")
    deep = b.node("Relu", conv(stem, (18, 1, 3, 3), "depthwise", group=18), name="deep")
    added = b.node("Add", conv(deep, (18, 18, 1, 1), "projected"), stem, name="added")
    swish = b.node("HardSwish", added, name="swish")
    pooled = b.node("MaxPool", swish, kernel_shape=[2, 2], strides=[2, 2], name="pooled")
    joined = b.node("Concat", conv(pooled, (7, 18, 3, 3), "branch"), pooled, axis=1, name="joined")
    gate = b.node(
        "Sigmoid", conv(b.node("GlobalAveragePool", joined, name="mean"), (25, 25, 1, 1), "gate"), name="gated"
    )
    flat = b.node(
        "Flatten",
        b.node("AveragePool", b.node("Mul", joined, gate, name="scaled"), kernel_shape=[3, 3], strides=[3, 3]),
    )
    weight = b.constant(random.standard_normal((100, 5)).astype("float32"))
    scores = b.node("MatMul", flat, weight, name="scores")
    return b.model({"x": [1, 3, 12, 12]}, scores, b.node("Softmax", scores, name="probability"))


@pytest.fixture(scope="module")
def mixed() -> Quantized:
    """`mixed_network` with some of its tensors in 16 bits, so that operators have those of both kinds beside them."""
    random = np.random.default_rng(1)
    samples = [random.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(4)]
    wide = ["stem", "projected", "swish", "joined", "gate", "scaled"]
    quantized = quantize(import_test_model(mixed_network()), samples, effort="none", keep_16=wide)
    assert {t.dtype for t in quantized.table.tensors.values()} == {"int16", "uint8"}
    return quantized


@pytest.fixture(scope="module")
def of_the_host(mixed: Quantized, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the host's library of it computes."""
    return Runner(mixed.build("host", tmp_path_factory.mktemp("host") / "mixed.so")).run(sample(0))


@pytest.mark.parametrize("target", CPUS)
def test_an_arm64_library_computes_the_bytes_of_the_host(
    target: str, mixed: Quantized, of_the_host: dict[str, np.ndarray], aarch64_python: Aarch64Python, tmp_path: Path
) -> None:
    library = mixed.build(target, tmp_path / f"{target}.so")
    (outputs,) = aarch64_python.run_library(library, [sample(0)], CPUS[target])
    assert list(outputs) == list(of_the_host)
    for name, expected in of_the_host.items():
        np.testing.assert_array_equal(outputs[name], expected, err_msg=name)


def test_a_cpu_without_the_instructions_is_refused_there_too(
    library_for: LibraryFor, aarch64_python: Aarch64Python
) -> None:
    path = str(library_for("android-arm64-i8mm"))
    result = aarch64_python.run(["-c", f"import pipeline; pipeline.Runner({path!r})"], "cortex-a76")
    assert "TargetError" in result.stderr
    assert "lacks i8mm" in result.stderr


SERVER = """
import runpy, sys
sys.executable, *sys.argv = sys.argv[1:]
runpy.run_module("tvm.exec.rpc_server", run_name="__main__")
"""
"""TVM's RPC server starts `sys.executable` again; here that must be the emulator."""


def test_tvms_rpc_server_on_arm64_gives_the_bytes_of_the_host(
    library: Path, library_for: LibraryFor, aarch64_python: Aarch64Python
) -> None:
    expected = Runner(library).run(sample(0))
    python, port = str(aarch64_python.executable()), free_port()
    address = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    command = [python, "-c", SERVER, python, "rpc_server", *address]
    with (
        process(command, port, aarch64_python.environment(), seconds=180),
        RemoteRunner(library_for("android-arm64"), rpc=f"127.0.0.1:{port}", timeout=120) as remote,
    ):
        outputs = remote.run(sample(0))
        assert len(remote.benchmark(sample(0), repeats=2, warmup=0)) == 2
        assert len(remote.trace(sample(0), repeats=1).kernels) == len(remote.metadata.operators)
    for name in expected:
        np.testing.assert_array_equal(outputs[name], expected[name])


def test_a_real_model_answers_on_arm64_as_on_the_host(aarch64_python: Aarch64Python, tmp_path: Path) -> None:
    prepared = prepare(load_recipe("digits"))
    quantized = quantize(load(prepared.model, prepared.shapes), prepared.calibration, batch_nums=50)
    host, device = (quantized.build(t, tmp_path / f"digits.{t}.so") for t in ("host", "android-arm64"))
    images = [labelled.feeds for labelled in itertools.islice(prepared.evaluation(), 20)]
    outputs = aarch64_python.run_library(device, images, "cortex-a53")
    runner = Runner(host)
    for got, feeds in zip(outputs, images, strict=True):
        np.testing.assert_array_equal(got["scores"], runner.run(feeds)["scores"])
