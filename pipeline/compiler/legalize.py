"""Legalize: TVM's own operators become calls of TIR functions, and what a library couldn't run is refused.

A library consists of its kernels and needs TVM's small runtime; it has no functions of the compiler. Operators that TVM
has no TIR function for, and those whose TIR function calls functions of the compiler, are refused here, with the name
of the tensor that they compute, as they would fail on a device.

Precondition: our operators stay as they are; `select_kernels` replaces them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, te, tirx, topi
from tvm.ir import GlobalVar
from tvm.relax import transform

from pipeline.errors import ModelError
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant

_RUNNABLE = frozenset({"relax.call_tir", "relax.reshape"})
"""Operators of Relax that later phases turn into calls of kernels or of the runtime."""

_PACKED_CALL = re.compile(r'call_c?packed\("([^"]+)"')


def legalize(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with TVM's operators as TIR functions.

    Raises:
        ModelError: a tensor is computed by an operator for which libraries have no function.
    """
    legalized = transform.LegalizeOps(_LEGALIZATIONS)(_with_empty_outputs_computed(module))
    named = [b.var.name for b in Dataflow.of(module).bindings]
    done = 0
    for binding in Dataflow.of(legalized).bindings:
        missing = _missing_function(legalized, binding)
        if missing is not None:
            # A tensor that legalization added has no name of the model's: the next tensor with such a name is named.
            name = binding.var.name if binding.var.name in named else named[min(done, len(named) - 1)]
            raise ModelError(
                f"Tensor {name!r} can't be computed by a library: there is no kernel for {missing}. "
                "Export the model with other operators, or cut it before this one."
            )
        if binding.var.name in named:
            done = named.index(binding.var.name) + 1
    return legalized


def _with_empty_outputs_computed(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with outputs computed that are constants without elements, which the runtime can't load."""
    flow = Dataflow.of(module)
    empty = {i: value for i, o in enumerate(flow.outputs) if (value := constant(o)) is not None and value.size == 0}
    if not empty:
        return module
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        builder.copy(binding)
    outputs = [builder.replaced(o) for o in flow.outputs]
    for i, value in empty.items():
        outputs[i] = builder.emit(relax.op.zeros(value.shape, str(value.dtype)), "empty")
    return builder.finish(outputs)


def _scan_legalizer(function: Callable[..., Any]) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    def legalize_scan(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        attrs = call.attrs
        axis = None if attrs["axis"] is None else int(attrs["axis"])
        return builder.call_te(function, call.args[0], axis, str(call.ty.dtype), bool(attrs["exclusive"]))

    return legalize_scan


def _extreme_legalizer(
    whole: Callable[..., Any], combine: Callable[..., Any], start: float
) -> Callable[..., relax.Expr]:
    """Return a legalizer for maxima or minima that starts from infinity; TVM's starts from the largest finite float."""

    def reduced(x: te.Tensor, axes: list[int], keepdims: bool) -> te.Tensor:
        along = {a: te.reduce_axis((0, x.shape[a]), name=f"k{a}") for a in axes}
        reducer = te.comm_reducer(combine, lambda dtype: tirx.const(start, dtype), name="extreme")
        shape = [1 if a in along else d for a, d in enumerate(x.shape) if keepdims or a not in along]

        def value(*indices: Any) -> Any:
            rest = iter(indices)
            places = [along[a] if a in along else next(rest) for a in range(len(x.shape))]
            return reducer(x(*places), axis=list(along.values()))

        def kept(*indices: Any) -> Any:
            return value(*(i for a, i in enumerate(indices) if a not in along))

        return te.compute(shape, kept if keepdims else value, name="extreme")

    def legalize_extreme(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        x, attrs = call.args[0], call.attrs
        rank = len(x.ty.shape)
        axes = sorted(int(a) % rank for a in attrs["axis"]) if attrs["axis"] is not None else list(range(rank))
        keepdims = bool(attrs["keepdims"])
        if str(x.ty.dtype) != "float32" or not axes:
            return builder.call_te(whole, x, axes, keepdims)
        return builder.call_te(reduced, x, axes, keepdims)

    return legalize_extreme


def _limit_legalizer(function: Callable[..., Any]) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    def keeping_nan(a: Any, b: Any) -> Any:
        """Return NaN where a is NaN; TVM's own functions return b there."""
        return topi.where(topi.isnan(a), a, function(a, b))

    def legalize_limit(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        chosen = keeping_nan if tensor_type(call).dtype.startswith("float") else function
        return builder.call_te(chosen, *call.args, primfunc_name_hint=function.__name__)

    return legalize_limit


_LEGALIZATIONS = {
    "relax.maximum": _limit_legalizer(topi.maximum),
    "relax.minimum": _limit_legalizer(topi.minimum),
    "relax.max": _extreme_legalizer(topi.max, lambda a, b: tirx.max(a, b), float("-inf")),
    "relax.min": _extreme_legalizer(topi.min, lambda a, b: tirx.min(a, b), float("inf")),
    "relax.cumsum": _scan_legalizer(topi.cumsum),
    "relax.cumprod": _scan_legalizer(topi.cumprod),
}
"""Legalizers for operators that TVM doesn't legalize itself, or not as the ONNX standard says."""


def _missing_function(module: tvm.IRModule, binding: Binding) -> str | None:
    """Return the name of a function that a binding needs and libraries don't have; None if there is none."""
    value = binding.value
    if not isinstance(value, relax.Call):
        return None
    if binding.operator not in _RUNNABLE and operator_of(value) is None:
        return binding.operator.removeprefix("relax.")
    kernel = value.args[0]
    called = _PACKED_CALL.search(module[kernel].script()) if isinstance(kernel, GlobalVar) else None
    return None if called is None else called[1]
