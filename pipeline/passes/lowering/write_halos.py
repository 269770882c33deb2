"""WriteHalos: padding is written by the operators whose result it surrounds.

Before -> after: `y = nn.pad(qnn.conv2d(x, ...), p)` becomes `y = qnn.conv2d(x, ..., halo=p)`; the same for `nn`, for
image inputs and for pooling. Nobody else may read what is padded, but for sums: these find it inside the halo.

Precondition: after SeparatePadding.
"""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, make_call, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder
from pipeline.ir.rewriting import rewrite_bindings


def write_halos(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with padding written by its producers; see the module's docstring."""
    flow = Dataflow.of(module)
    changed: dict[relax.Var, ops.WithHalo] = {}
    padded: dict[relax.Var, relax.Var] = {}
    for binding in flow.bindings:
        pad = describe(binding.value)
        if not isinstance(pad, ops.Pad) or (producer := flow.producers.get(binding.value.args[0])) is None:
            continue
        others = [user for user in flow.users[producer.var] if not user.var.same_as(binding.var)]
        # A sum may have been given a halo of its own before.
        sums = {u.var: _adding_inside(changed.get(u.var, describe(u.value)), u, producer.var, pad) for u in others}
        writer = _writer(producer)
        if writer is None or producer.var in flow.outputs or None in sums.values():
            continue
        padded[binding.var] = producer.var
        changed[producer.var] = changed.get(producer.var, writer).with_halo(pad.padding, pad.value)
        changed |= {var: attrs for var, attrs in sums.items() if attrs is not None}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if binding.var in padded:
            return builder.replaced(padded[binding.var])
        if binding.var in changed:
            return make_call(changed[binding.var], *(builder.replaced(a) for a in binding.value.args))
        return None

    return rewrite_bindings(module, visit)


def _writer(producer: Binding) -> ops.WithHalo | None:
    """Return an operator that can write a halo around its result; None if it can't."""
    operator = describe(producer.value)
    if not isinstance(operator, ops.WithHalo):
        return None
    return operator if operator.extensible(*(tensor_type(a) for a in producer.value.args)) else None


def _adding_inside(
    attrs: ops.Operator | None, user: Binding, var: relax.Var, pad: ops.Pad
) -> ops.Conv2dAdd | ops.QConv2dAdd | None:
    """Return a sum that finds `var` inside a halo; None if `user` isn't one, or needs the pixels of `var` together.

    Args:
        attrs: what `user` is, or has become.
        user: a binding that reads `var`.
        var: what gets the halo.
        pad: the halo.
    """
    if not isinstance(attrs, ops.Conv2dAdd | ops.QConv2dAdd) or tensor_type(user.value.args[1]).shape[1:3] == (1, 1):
        return None
    *others, residual = user.value.args
    if not residual.same_as(var) or any(other.same_as(var) for other in others):
        return None
    return dataclasses.replace(attrs, residual_halo=pad.padding)
