"""Runs one kernel by itself: generated for an instruction set, compiled for this machine, called on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from pipeline.compilation.codegen import code_generation
from pipeline.dialect.attributes import Attributes
from pipeline.dialect.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.operation import Kernel, Operation
from tests.kernels.instruction_sets import runnable

Array = npt.NDArray[Any]


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


def run_kernel(operation: Operation, isa_name: str, *activations: Array) -> Array:
    """Return what the selected kernel computes.

    Args:
        operation: what to compute, see `make_operation`.
        isa_name: the instruction set to generate for; the test is skipped where this machine can't run it.
        activations: values of the arguments that aren't constants, in order.
    """
    machine = runnable(isa_name)
    return run_generated(operation, machine.isa, machine.target, *activations)


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
