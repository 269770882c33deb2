"""arm64 libraries, loaded by an emulated arm64 Python, compute the bytes that the host computes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from pipeline.api import load, quantize
from pipeline.recipes import load_recipe, prepare
from pipeline.runtime.local import Runner
from pipeline.runtime.rpc import RemoteRunner
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


@pytest.mark.parametrize("target", CPUS)
def test_an_arm64_library_computes_the_bytes_of_the_host(
    target: str, library: Path, library_for: LibraryFor, aarch64_python: Aarch64Python
) -> None:
    expected = Runner(library).run(sample(0))
    (outputs,) = aarch64_python.run_library(library_for(target), [sample(0)], CPUS[target])
    assert list(outputs) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(outputs[name], expected[name])


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
