"""FuseUnary: elementwise operators that together compute a function of one tensor become one `nn.unary`.

Before -> after: `t = add(x, 3); u = clip(t, 0, 6); v = multiply(x, u); y = divide(v, 6)` becomes one `y = nn.unary(x)`
with the formula `x * min(max(x + 3, 0), 6) / 6`. All other operands must be single numbers. Quantized, an `nn.unary` is
one table lookup however long its formula is, so the longest chains are fused.

Precondition: after FuseClip, so that a ReLU after a convolution is part of the convolution already.
"""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_operands, tensor_type
from pipeline.ir.dataflow import Binding, DataflowBuilder, constant
from pipeline.ir.rewriting import rewrite_bindings
from pipeline.ops.formula import Formula, X
from pipeline.ops.relax_operators import Elementwise

MAX_STEPS = 64
"""Most steps of a formula; a longer chain becomes several operators."""


def fuse_unary(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with functions of one tensor fused; see the module's docstring."""
    found: dict[relax.Var, tuple[relax.Var, Formula]] = {}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        match = _match(binding, found)
        if match is None:
            return None
        found[binding.var] = match
        root, formula = match
        return make_call(ops.Unary.of(formula), builder.replaced(root))

    return rewrite_bindings(module, visit)


def _match(binding: Binding, found: dict[relax.Var, tuple[relax.Var, Formula]]) -> tuple[relax.Var, Formula] | None:
    """Return (x, formula) if a binding computes a function of one tensor x; None otherwise.

    Args:
        binding: a binding of the old program.
        found: the same pairs for earlier bindings.
    """
    if not isinstance(binding.var.ty, relax.TensorType) or not isinstance(binding.value, relax.Call):
        return None
    ty, operator, args = tensor_type(binding.var), ops.traits_of(binding), tensor_operands(binding.value)
    if ty.dtype != "float32" or not isinstance(operator, Elementwise):
        return None
    variables = [a for a in args if isinstance(a, relax.Var)]
    if not variables or any(tensor_type(v) != ty for v in variables):
        return None
    for unfold in (found, {}):
        roots = {unfold[v][0] if v in unfold else v for v in variables}
        operands = [_operand(a, unfold) for a in args]
        known = [o for o in operands if o is not None]
        if len(roots) != 1 or len(known) < len(operands):
            continue
        formula = operator.formula(*known)
        if formula is not None and len(formula.steps) <= MAX_STEPS:
            return roots.pop(), formula
    return None


def _operand(arg: relax.Expr, found: dict[relax.Var, tuple[relax.Var, Formula]]) -> Formula | float | None:
    if isinstance(arg, relax.Var):
        return found[arg][1] if arg in found else X
    value = constant(arg)
    return float(value.reshape(())) if value is not None and value.size == 1 else None
