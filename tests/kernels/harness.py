"""Runs one kernel by itself: generated for an instruction set, compiled for this machine, called on NumPy arrays."""

from __future__ import annotations

import functools
import platform
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from tvm.target import codegen

from pipeline.compilation.codegen import code_generation
from pipeline.dialect.attributes import Attributes
from pipeline.dialect.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.isa import InstructionSet, instruction_set
from pipeline.kernels.operation import Kernel, Operation

Array = npt.NDArray[Any]

CPUS = {
    "portable": "x86-64-v2",
    "sse41": "x86-64-v2",
    "avx2": "haswell",
    "avx512": "skylake-avx512",
    "avx_vnni": "cascadelake",
    "avx512_vnni": "cascadelake",
    "avx512_vbmi": "icelake-server",
}
"""The oldest x86 CPU that has each instruction set; nothing newer may be needed to run its kernels.

AVX-VNNI's instructions came as part of AVX512, in another encoding.
"""


def make_operation(attrs: Attributes, *arguments: Array, activations: int = 1) -> Operation:
    """Describe an operator on these arguments; the first `activations` are known at run time only."""
    inputs = tuple(TensorType(a.shape, str(a.dtype)) for a in arguments)
    constants = {i: a for i, a in enumerate(arguments) if i >= activations}
    return Operation(attrs, inputs, attrs.infer(*inputs), constants)


def generate(operation: Operation, isa: InstructionSet) -> Kernel:
    """Return the kernel that the registry selects."""
    return registry.select(operation, isa).generate(operation, isa)


def build(func: tvm.tirx.PrimFunc, target: tvm.target.Target) -> tvm.runtime.Module:
    """Return the compiled module, with a kernel's function as its `main`."""
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    with code_generation():
        return tvm.compile(module, target).mod


def assembly(kernel: Kernel, target: tvm.target.Target) -> str:
    """Return the assembly text of a kernel, for any target that LLVM knows."""
    return str(build(kernel.func, target).inspect_source("s"))


@functools.cache
def host_target(isa_name: str) -> tvm.target.Target:
    """Return the target to test an instruction set on this machine with; skip the test where the CPU lacks it."""
    if platform.machine() != "x86_64":
        if isa_name in CPUS and isa_name != "portable":
            pytest.skip(f"{isa_name} is an x86 instruction set, this is {platform.machine()}")
        return tvm.target.Target({"kind": "llvm"})
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": CPUS[isa_name]})
    system = tvm.target.Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    missing = {f for f in codegen.llvm_get_cpu_features(target) if str(f).startswith("avx")}
    missing -= set(codegen.llvm_get_cpu_features(system))
    if missing:
        pytest.skip(f"This CPU lacks {', '.join(sorted(missing))}")
    return target


def run_kernel(operation: Operation, isa_name: str, *activations: Array) -> Array:
    """Return what the selected kernel computes.

    Args:
        operation: what to compute, see `make_operation`.
        isa_name: the instruction set to generate for; the test is skipped where this machine lacks it.
        activations: values of the arguments that aren't constants, in order.
    """
    return run_generated(operation, instruction_set(isa_name), host_target(isa_name), *activations)


def run_generated(operation: Operation, isa: InstructionSet, target: tvm.target.Target, *activations: Array) -> Array:
    """Return what the kernel for an instruction set computes, compiled for a target that this machine can run."""
    kernel = generate(operation, isa)
    module = build(kernel.func, target)
    *inputs, output = (tuple(int(d) for d in p.shape) for p in kernel.func.params)
    values = [activations[a] if isinstance(a, int) else a for a in kernel.arguments]
    arguments = [tvm.runtime.tensor(v.reshape(shape)) for v, shape in zip(values, inputs, strict=True)]
    result = tvm.runtime.tensor(np.zeros(output, operation.output.dtype))
    module["main"](*arguments, result)
    return np.asarray(result.numpy().reshape(operation.output.shape))
