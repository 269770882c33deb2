"""FuseUnary: every chain of functions of one tensor becomes one `nn.unary`.

Before -> after: `t = add(x, 3); u = clip(t, 0, 6); v = multiply(x, u); y = divide(v, 6)` becomes one `y = nn.unary(x)`
of the formula `x * min(max(x + 3, 0), 6) / 6`. All operands other than x must be single numbers. As 8-bit code this is
one table, whatever the chain's length, so it pays to find the longest one.

Precondition: after FuseClip, so that activations which a convolution can apply by itself are gone.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Binding, DataflowBuilder, constant
from pipeline.ir.rewriting import rewrite_bindings
from pipeline.ops.formula import FUNCTIONS, Formula, X, apply

MAX_STEPS = 64
"""Longest formula; what is longer is cut into several operators."""


def _clip(call: relax.Call, x: Formula) -> Formula:
    return apply("minimum", apply("maximum", x, float(call.args[1].value)), float(call.args[2].value))


def _leaky(call: relax.Call, x: Formula) -> Formula:
    negative = apply("multiply", apply("minimum", x, 0.0), float(call.attrs["alpha"]))
    return apply("add", apply("maximum", x, 0.0), negative)


def _gelu(_: relax.Call, x: Formula) -> Formula:
    return _gated(x, apply("erf", apply("multiply", x, 0.7071067811865476)))


def _gelu_tanh(_: relax.Call, x: Formula) -> Formula:
    cube = apply("multiply", apply("multiply", x, x), x)
    inner = apply("multiply", apply("add", x, apply("multiply", cube, 0.044715)), 0.7978845608028654)
    return _gated(x, apply("tanh", inner))


def _gated(x: Formula, gate: Formula) -> Formula:
    return apply("multiply", apply("multiply", x, 0.5), apply("add", gate, 1.0))


_DERIVED: dict[str, Callable[[relax.Call, Formula], Formula]] = {
    "relax.clip": _clip,
    "relax.nn.gelu": _gelu,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.leakyrelu": _leaky,
    "relax.nn.relu": lambda _, x: apply("maximum", x, 0.0),
    "relax.nn.relu6": lambda _, x: apply("minimum", apply("maximum", x, 0.0), 6.0),
    "relax.nn.silu": lambda _, x: apply("multiply", x, apply("sigmoid", x)),
    "relax.square": lambda _, x: apply("multiply", x, x),
}
"""Relax operators that are several functions in one."""


def fuse_unary(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with chains of functions of one tensor fused; see the module's docstring."""
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
    """Return (x, formula) if a binding is a function of one tensor x."""
    if not isinstance(binding.var.ty, relax.TensorType) or not isinstance(binding.value, relax.Call):
        return None
    ty = tensor_type(binding.var)
    name = binding.operator.removeprefix("relax.")
    if ty.dtype != "float32" or (binding.operator not in _DERIVED and name not in FUNCTIONS):
        return None
    args = binding.value.args[:1] if binding.operator in _DERIVED else binding.value.args
    variables = [a for a in args if isinstance(a, relax.Var)]
    if not variables or any(tensor_type(v) != ty for v in variables):
        return None
    for unfold in (found, {}):
        roots = {unfold[v][0] if v in unfold else v for v in variables}
        operands = [_operand(a, unfold) for a in args]
        known = [o for o in operands if o is not None]
        if len(roots) != 1 or len(known) < len(operands):
            continue
        derived, x = _DERIVED.get(binding.operator), known[0]
        formula = derived(binding.value, x) if derived and isinstance(x, Formula) else apply(name, *known)
        if len(formula.steps) <= MAX_STEPS:
            return roots.pop(), formula
    return None


def _operand(arg: relax.Expr, found: dict[relax.Var, tuple[relax.Var, Formula]]) -> Formula | float | None:
    if isinstance(arg, relax.Var):
        return found[arg][1] if arg in found else X
    value = constant(arg)
    return float(value.reshape(())) if value is not None and value.size == 1 else None
