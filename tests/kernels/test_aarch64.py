"""Memory-bound kernels on arm64: equal to the reference, run by an emulated CPU without optional instructions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from pipeline.compilation.codegen import code_generation
from pipeline.kernels.isa import instruction_set
from pipeline.reference.operators import evaluate
from tests.deploy.emulation import SYSROOT_VARIABLE, Aarch64Python, why_missing
from tests.kernels.examples import examples
from tests.kernels.harness import generate, make_operation

TARGET = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic", "mattr": ["+neon"]}
LINK = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-shared", "-nostdlib")


def _link(output: str, objects: Sequence[str], **_options: Any) -> None:
    subprocess.run([*LINK, *objects, "-rtlib=compiler-rt", "-o", output], check=True, capture_output=True)


_link.output_format = "so"  # type: ignore[attr-defined]


@pytest.mark.skipif(why_missing() is not None, reason=str(why_missing()))
def test_kernels_compute_the_reference_s_bytes(tmp_path: Path) -> None:
    functions, arguments, expected = {}, {}, {}
    for i, example in enumerate(examples().values()):
        name, inputs = f"kernel{i}", example.arguments
        operation = make_operation(example.attrs, *inputs)
        kernel = generate(operation, instruction_set("neon"))
        functions[name] = kernel.func.with_attr("global_symbol", name)
        shapes = [tuple(int(d) for d in p.shape) for p in kernel.func.params]
        values = [inputs[a] if isinstance(a, int) else a for a in kernel.arguments]
        values.append(np.zeros(shapes[-1], operation.output.dtype))
        for position, (value, shape) in enumerate(zip(values, shapes, strict=True)):
            arguments[f"{name}/{position}"] = value.reshape(shape)
        expected[name] = evaluate(example.attrs, *inputs)
    with code_generation():
        library = tvm.compile(tvm.IRModule(functions), tvm.target.Target(TARGET))
    library.export_library(str(tmp_path / "kernels.so"), fcompile=_link)
    np.savez(tmp_path / "in.npz", **arguments)

    emulated = Aarch64Python(Path(os.environ[SYSROOT_VARIABLE]).resolve(), tmp_path)
    files = [str(tmp_path / f) for f in ("kernels.so", "in.npz", "out.npz")]
    process = emulated.run(["-m", "tests.kernels.run_kernels", *files], "cortex-a53")
    assert process.returncode == 0, process.stderr
    with np.load(tmp_path / "out.npz") as results:
        assert set(results.files) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(results[name].reshape(value.shape), value, err_msg=name)
