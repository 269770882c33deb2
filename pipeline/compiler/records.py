"""Records which kernels a program calls, in which order and for which tensors, for the library's metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import Op

from pipeline.ir.bridge import tensor_type, tensor_types
from pipeline.ir.dataflow import Dataflow, constant
from pipeline.ir.types import TensorType
from pipeline.kernels.operation import Operation
from pipeline.library.metadata import OperatorRecord

_OPERATOR = "pipeline.operator"
_MULTIPLY_ADDS = "pipeline.multiply_adds"
_CONSTANT_BYTES = "pipeline.constant_bytes"

_RECORDED_PHASE = "remove_dead_code"
"""The phase after which all kernel calls are in the program, and tensors still have their names."""


def kernel_attributes(operation: Operation, constant_bytes: int) -> dict[str, Any]:
    """Return function attributes that say what a kernel computes and reads, for `KernelRecorder` to read."""
    return {
        _OPERATOR: operation.operator.name,
        _MULTIPLY_ADDS: operation.operator.multiply_adds(*operation.inputs),
        _CONSTANT_BYTES: constant_bytes,
    }


def is_kernel(function: tvm.ir.BaseFunc) -> bool:
    """Return whether a function of a module is one of our kernels, not one of TVM's."""
    return function.attrs is not None and _OPERATOR in function.attrs


class KernelRecorder:
    """Records the kernel calls of a program while it is lowered. To be called after each phase, as `lower`'s `dump`.

    Args:
        outputs: names of the program's outputs, in order; lowering may have renamed their variables.
        dump: called after each phase, too; None if nothing is.

    Attributes:
        operators: the program's kernel calls, in order.
    """

    def __init__(self, outputs: Sequence[str], dump: Callable[[str, tvm.IRModule], None] | None = None) -> None:
        self._outputs, self._dump = outputs, dump
        self.operators: tuple[OperatorRecord, ...] = ()

    def __call__(self, phase: str, module: tvm.IRModule) -> None:
        """Take the result of a phase."""
        if phase == _RECORDED_PHASE:
            self.operators = kernel_calls(module, self._outputs)
        if self._dump is not None:
            self._dump(phase, module)


def kernel_calls(module: tvm.IRModule, outputs: Sequence[str]) -> tuple[OperatorRecord, ...]:
    """Return the calls of TIR functions that a module's `main` makes, in order.

    Args:
        module: the module after `_RECORDED_PHASE`.
        outputs: names for the tensors that `main` returns. A name that another tensor has already isn't used: the one
            before an output is transposed, for example.
    """
    flow = Dataflow.of(module)
    taken = {b.var.name for b in flow.bindings}
    names = {var: name for var, name in zip(flow.outputs, outputs, strict=True) if name not in taken}
    call_tir = Op.get("relax.call_tir")
    return tuple(
        _record(module, b.value, names.get(b.var, str(b.var.name)), tensor_types(b.var)[0])
        for b in flow.bindings
        if isinstance(b.value, relax.Call) and b.value.op.same_as(call_tir)
    )


def _record(module: tvm.IRModule, call: relax.Call, name: str, output: TensorType) -> OperatorRecord:
    kernel, arguments = call.args[0], call.args[1].fields
    attrs = module[kernel].attrs
    # Kernels of Relax's operators get constants as arguments. A number is none, and no offset into the pool either.
    tensors = [a for a in arguments if not isinstance(a, tirx.IntImm | tirx.FloatImm)]
    constant_bytes = sum(tensor_type(a).nbytes for a in tensors if constant(a) is not None)
    return OperatorRecord(
        name=name,
        operator=str(attrs.get(_OPERATOR, kernel.name_hint)),
        kernel=str(kernel.name_hint),
        multiply_adds=int(attrs.get(_MULTIPLY_ADDS, 0)),
        inputs=tuple(tensor_type(a) for a in tensors if constant(a) is None),
        constant_bytes=int(attrs.get(_CONSTANT_BYTES, constant_bytes)),
        output=output,
    )
