"""HoistReshapes: reshapes move towards the program's inputs, and are merged where they meet.

Before -> after: `reshape(dense(x, w, b), [..., O])` becomes `dense(reshape(x, [..., K]), w, b)`; the same for all
rowwise operators, and for `nn.unary`. `reshape(reshape(x))` becomes one reshape. Exporters put each matrix product
between two reshapes. Those that remain follow an operator that needs the old shape; they cost nothing there, whereas a
reshape right before an output needs a copy.

Precondition: after PropagateLayout and FuseUnary.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, with_arguments
from pipeline.ir.rewriting import rewrite_bindings
from pipeline.ops import relax_operators


def hoist_reshapes(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with reshapes moved towards the inputs; see the module's docstring."""
    while True:
        flow = Dataflow.of(module)
        swapped = {b.var: user for b in flow.bindings if (user := _swappable(flow, b)) is not None}
        if swapped:
            module = _with_swapped(module, swapped)
        elif merged := _mergeable(flow):
            module = _with_merged(module, merged)
        else:
            return module


def _with_swapped(module: tvm.IRModule, swapped: dict[relax.Var, Binding]) -> tvm.IRModule:
    """Return the module with operators and the reshapes that read them swapped.

    Args:
        module: the program.
        swapped: the reshape of each operator's variable. The result of the pair keeps the operator's name.
    """
    reshaped = {user.var: var for var, user in swapped.items()}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if binding.var in swapped:
            return _swap(builder, binding, tensor_type(swapped[binding.var].var).shape)
        return builder.replaced(reshaped[binding.var]) if binding.var in reshaped else None

    return rewrite_bindings(module, visit)


def _with_merged(module: tvm.IRModule, merged: dict[relax.Var, relax.Expr]) -> tvm.IRModule:
    """Return the module with reshapes of other tensors, as `_mergeable` returned them."""

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if binding.var not in merged:
            return None
        x, shape = builder.replaced(merged[binding.var]), tensor_type(binding.var).shape
        return x if tensor_type(x).shape == shape else relax.op.reshape(x, list(shape))

    return rewrite_bindings(module, visit)


def _swappable(flow: Dataflow, binding: Binding) -> Binding | None:
    """Return the reshape that is the only reader of a binding, if the two can be swapped; None otherwise."""
    operator = operator_of(binding.value)
    if operator is None or not (operator.rowwise or isinstance(operator, ops.Unary)):
        return None
    user = flow.only_user(binding.var)
    if user is None or not _is_reshape(user) or user.var in flow.users.get(binding.value.args[0], ()):
        return None
    before, after = tensor_type(binding.var).shape, tensor_type(user.var).shape
    return user if isinstance(operator, ops.Unary) or before[-1:] == after[-1:] else None


def _is_reshape(binding: Binding) -> bool:
    return isinstance(ops.traits_of(binding), relax_operators.Reshape)


def _swap(builder: DataflowBuilder, binding: Binding, shape: Sequence[int]) -> relax.Call:
    x, *constants = (builder.replaced(a) for a in binding.value.args)
    single_values = isinstance(operator_of(binding.value), ops.Unary)
    wanted = list(shape) if single_values else [*shape[:-1], tensor_type(x).shape[-1]]
    reshaped = builder.emit(relax.op.reshape(x, wanted), f"{binding.var.name}.reshaped")
    return with_arguments(binding.value, [reshaped, *constants])


def _mergeable(flow: Dataflow) -> dict[relax.Var, relax.Expr]:
    """Return, for each reshape that follows another one or changes nothing, the tensor that it can read instead."""
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
