"""WriteHalos: an operator writes its result into the middle of the padded buffer that its reader needs.

Before -> after: `y = nn.pad(qnn.conv2d(x, ...), p)` becomes `y = qnn.conv2d(x, ..., halo=p)`; the same for `nn.conv2d`,
for image inputs, for pooling and for concatenations. The padded tensor may have no other readers except as the residual
of convolutions, which can read it from inside the halo.

Precondition: after SeparatePadding.
"""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder
from pipeline.ir.rewriting import rewrite_bindings


def write_halos(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with padding written by the operators whose results are padded; see the module's docstring."""
    flow = Dataflow.of(module)
    changed: dict[relax.Var, ops.WithHalo] = {}
    padded: dict[relax.Var, relax.Var] = {}
    for binding in flow.bindings:
        pad = operator_of(binding.value)
        if not isinstance(pad, ops.Pad) or (producer := flow.producers.get(binding.value.args[0])) is None:
            continue
        others = [user for user in flow.users[producer.var] if not user.var.same_as(binding.var)]
        # The reader may itself have been given a halo already.
        sums = {u.var: _reading_inside(changed.get(u.var, operator_of(u.value)), u, producer.var, pad) for u in others}
        writer = _writer(producer)
        if writer is None or producer.var in flow.outputs or None in sums.values():
            continue
        padded[binding.var] = producer.var
        changed[producer.var] = changed.get(producer.var, writer).with_halo(pad.padding, pad.value)
        changed |= {var: changed_sum for var, changed_sum in sums.items() if changed_sum is not None}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if binding.var in padded:
            return builder.replaced(padded[binding.var])
        if binding.var in changed:
            return make_call(changed[binding.var], *(builder.replaced(a) for a in binding.value.args))
        return None

    return rewrite_bindings(module, visit)


def _writer(producer: Binding) -> ops.WithHalo | None:
    """Return the operator of a binding if it can write a halo around its result, otherwise None."""
    operator = operator_of(producer.value)
    if not isinstance(operator, ops.WithHalo):
        return None
    return operator if operator.has_epilogue(*(tensor_type(a) for a in producer.value.args)) else None


def _reading_inside(
    operator: ops.Operator | None, user: Binding, var: relax.Var, pad: ops.Pad
) -> ops.ResidualConvolution | None:
    """Return the operator of a binding that reads its residual, `var`, from inside a halo.

    None if `user` reads `var` in any other way, or is a 1x1 convolution, whose kernel needs the residual without gaps.

    Args:
        operator: the operator of `user`, as far as it has been changed.
        user: a binding that reads `var`.
        var: the tensor that gets the halo.
        pad: the padding that becomes the halo.
    """
    if not isinstance(operator, ops.ResidualConvolution) or tensor_type(user.value.args[1]).shape[1:3] == (1, 1):
        return None
    *others, residual = user.value.args
    if not residual.same_as(var) or any(other.same_as(var) for other in others):
        return None
    return operator.with_residual_halo(pad.padding)
