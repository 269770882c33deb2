"""Runs a program in this process, without writing a library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from pipeline.compiler.loaded_kernels import virtual_machine
from pipeline.compiler.lower import lower, machine_of
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding, substitute, variables
from pipeline.ir.program import Program, TensorSpec
from pipeline.targets import load_target

Array = npt.NDArray[Any]


class Executor:
    """A program, compiled for this machine.

    Args:
        program: a float or int8 program.

    Raises:
        ModelError: a tensor of the program can't be computed; see `legalize`.
        TargetError: this machine can run none of the package's targets.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        target = load_target("host")
        tvm_target = target.tvm_target()
        self._machine = virtual_machine(lower(program.module, tvm_target, machine_of(target)), tvm_target)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for one batch of inputs by name."""
        arguments = [tvm.runtime.tensor(np.asarray(feeds[i.name], order="C")) for i in self._program.inputs]
        result = self._machine["main"](*arguments)
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return {o.name: _array(r) for o, r in zip(self._program.outputs, results, strict=True)}


def operator_executor(binding: Binding) -> Executor:
    """Return what executes one operator of a program, whose inputs are the variables that it reads, by their names.

    Args:
        binding: an operator whose result is one tensor.
    """
    read = {v: relax.Var(v.name, v.ty) for v in variables(binding.value)}
    builder = relax.BlockBuilder()
    with builder.function("main", list(read.values())):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(substitute(binding.value, dict(read))))
        builder.emit_func_output(result)
    inputs, outputs = (tuple(map(_spec, values)) for values in (read, [binding.var]))
    return Executor(Program(builder.get(), inputs, outputs, str(binding.var.name), source_sha256=""))


def _spec(var: relax.Var) -> TensorSpec:
    found = tensor_type(var)
    return TensorSpec(str(var.name), found.shape, found.dtype)


def _array(tensor: tvm.runtime.Tensor) -> Array:
    """Return a tensor's values, without a copy wherever NumPy has the type: calibration asks for all activations."""
    return tensor.numpy() if str(tensor.dtype) == "bfloat16" else np.from_dlpack(tensor)
