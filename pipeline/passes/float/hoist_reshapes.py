"""HoistReshapes: reshapes move towards the inputs, until they meet another one or become free.

Before -> after: `reshape(dense(x, w, b), [..., O])` becomes `dense(reshape(x, [..., K]), w, b)`, and so for every
operator on rows, and on single values; `reshape(reshape(x))` becomes one. Exporters wrap each matrix product between
two of them. Those that are left stand behind operators that can't take the other shape; they need no copy there,
whereas the last one before an output does.

Precondition: after PropagateLayout and FuseUnary.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder
from pipeline.ops import relax_operators


def hoist_reshapes(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with reshapes moved towards the inputs; see the module's docstring."""
    while True:
        flow = Dataflow.of(module)
        swapped = {b.var: user for b in flow.bindings if (user := _swappable(flow, b)) is not None}
        reshapes = {user.var for user in swapped.values()}
        builder = DataflowBuilder(module)
        merged = {} if swapped else _mergeable(flow)
        for binding in flow.bindings:
            if binding.var in swapped:
                user = swapped[binding.var]
                builder.values[user.var] = _swap(builder, binding, tensor_type(user.var).shape)
            elif binding.var in merged:
                builder.values[binding.var] = _reshape(builder, merged[binding.var], binding)
            elif binding.var not in reshapes:
                builder.copy(binding)
        module = builder.finish([builder.replaced(o) for o in flow.outputs])
        if not swapped and not merged:
            return module


def _swappable(flow: Dataflow, binding: Binding) -> Binding | None:
    """Return the reshape that alone reads a binding, if the operator can come after it."""
    attrs = describe(binding.value)
    if attrs is None or not (attrs.rowwise or isinstance(attrs, ops.Unary)):
        return None
    user = flow.only_user(binding.var)
    if user is None or not _is_reshape(user) or user.var in flow.users.get(binding.value.args[0], ()):
        return None
    before, after = tensor_type(binding.var).shape, tensor_type(user.var).shape
    return user if isinstance(attrs, ops.Unary) or before[-1:] == after[-1:] else None


def _is_reshape(binding: Binding) -> bool:
    return isinstance(ops.traits_of(binding), relax_operators.Reshape)


def _swap(builder: DataflowBuilder, binding: Binding, shape: Sequence[int]) -> relax.Var:
    x, *constants = (builder.replaced(a) for a in binding.value.args)
    rows = isinstance(describe(binding.value), ops.Unary)
    wanted = list(shape) if rows else [*shape[:-1], tensor_type(x).shape[-1]]
    reshaped = builder.emit(relax.op.reshape(x, wanted), f"{binding.var.name}.reshaped")
    call = relax.Call(binding.value.op, [reshaped, *constants], binding.value.attrs, list(binding.value.ty_args))
    return builder.emit(call, binding.var.name)


def _mergeable(flow: Dataflow) -> dict[relax.Var, relax.Expr]:
    """Return for each reshape that follows another one, or changes nothing, what it can be made from instead."""
    found: dict[relax.Var, relax.Expr] = {}
    for binding in flow.bindings:
        if not _is_reshape(binding):
            continue
        source = binding.value.args[0]
        producer = flow.producers.get(source)
        if producer is not None and _is_reshape(producer):
            found[binding.var] = found.get(source, producer.value.args[0])
        elif tensor_type(source).shape == tensor_type(binding.var).shape:
            found[binding.var] = source
    return found


def _reshape(builder: DataflowBuilder, source: relax.Expr, binding: Binding) -> relax.Expr:
    x, shape = builder.replaced(source), tensor_type(binding.var).shape
    return x if tensor_type(x).shape == shape else builder.emit(relax.op.reshape(x, list(shape)), binding.var.name)
