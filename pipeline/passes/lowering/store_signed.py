"""StoreSigned: activations are stored as int8, each minus 128, where kernels multiply signed bytes.

Before -> after: `y = qnn.conv2d(x, ...)` becomes `y = qnn.conv2d(x, ..., output_dtype="int8")`, if only operators read
y that take it so: convolutions, and pooling and padding whose own results are stored so. Then kernels needn't subtract
128 from what they have loaded, each time. Zero points stay, and so do all results.

Precondition: after WriteHalos.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder
from pipeline.ir.rewriting import rewrite_bindings

OFFSET = 128


def store_signed(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with activations stored as int8; see the module's docstring."""
    flow = Dataflow.of(module)
    chosen = {b.var for b in flow.bindings if b.var not in flow.outputs and _writes(b)}
    while unfit := {var for var in chosen if not _fits(flow, var, chosen)}:
        chosen -= unfit

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if binding.var not in chosen:
            return None
        operator = _signed(operator_of(binding.value))
        return make_call(operator, *(builder.replaced(a) for a in binding.value.args))

    return rewrite_bindings(module, visit)


def _writes(binding: Binding) -> bool:
    """Return whether a binding's operator can store its result, which is uint8 now, as int8."""
    operator = operator_of(binding.value)
    kinds = ops.QConv2d | ops.QuantizeImage | ops.MaxPool2d | ops.Pad
    looks_up = isinstance(operator, ops.QConv2dLookup)
    return isinstance(operator, kinds) and not looks_up and tensor_type(binding.var).dtype == "uint8"


def _fits(flow: Dataflow, var: relax.Var, chosen: set[relax.Var]) -> bool:
    """Return whether all that belongs to a tensor can be stored signed, given the other tensors that may be."""
    producer = flow.producers[var]
    if _passes_through(producer) and producer.value.args[0] not in chosen:
        return False
    return all(_reads(user, var) and (user.var in chosen or not _passes_through(user)) for user in flow.users[var])


def _passes_through(binding: Binding) -> bool:
    return isinstance(operator_of(binding.value), ops.MaxPool2d | ops.Pad)


def _reads(user: Binding, var: relax.Var) -> bool:
    """Return whether a binding's operator takes a tensor as int8."""
    operator = operator_of(user.value)
    if isinstance(operator, ops.QConv2d) and not isinstance(operator, ops.QConv2dLookup):
        return True
    return _passes_through(user)


def _signed(operator: ops.Operator | None) -> ops.Operator:
    """Return an operator that stores its result as int8."""
    if operator is None:
        raise TypeError("Expected an operator of ours")
    changed: dict[str, Any] = {}
    if isinstance(operator, ops.QConv2d | ops.QuantizeImage):
        changed["output_dtype"] = "int8"
    if isinstance(operator, ops.QConv2d | ops.MaxPool2d):
        changed["halo_value"] = operator.halo_value - OFFSET
    if isinstance(operator, ops.Pad):
        changed["value"] = operator.value - OFFSET
    return dataclasses.replace(operator, **changed)
