"""FuseUnary: every chain of functions of one tensor becomes one `nn.unary`.

Before -> after: `t = add(x, 3); u = clip(t, 0, 6); v = multiply(x, u); y = divide(v, 6)` becomes
`y = nn.unary(x, "x * clip(x + 3) / 6")`. All operands other than x must be single numbers. As 8-bit code this is one
table, whatever the chain's length, so it pays to find the longest one.

Precondition: after FuseClip, so that activations which a convolution can apply by itself are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from pipeline.dialect import attributes as op
from pipeline.dialect import pointwise
from pipeline.dialect.dataflow import Binding, Dataflow, DataflowBuilder, constant
from pipeline.dialect.operators import make_call, tensor_type
from pipeline.dialect.pointwise import Expression

MAX_NODES = 64
"""Longest expression; a chain that uses itself twice doubles with every step."""


def _clip(call: relax.Call, x: Expression) -> Expression:
    return ["minimum", ["maximum", x, float(call.args[1].value)], float(call.args[2].value)]


def _leaky(call: relax.Call, x: Expression) -> Expression:
    return ["add", ["maximum", x, 0.0], ["multiply", ["minimum", x, 0.0], float(call.attrs["alpha"])]]


def _gelu(_: relax.Call, x: Expression) -> Expression:
    return ["multiply", ["multiply", x, 0.5], ["add", ["erf", ["multiply", x, 0.7071067811865476]], 1.0]]


def _gelu_tanh(_: relax.Call, x: Expression) -> Expression:
    cube = ["multiply", ["multiply", x, x], x]
    inner = ["multiply", ["add", x, ["multiply", cube, 0.044715]], 0.7978845608028654]
    return ["multiply", ["multiply", x, 0.5], ["add", ["tanh", inner], 1.0]]


_DERIVED: dict[str, Callable[[relax.Call, Expression], Expression]] = {
    "relax.clip": _clip,
    "relax.nn.gelu": _gelu,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.leakyrelu": _leaky,
    "relax.nn.relu": lambda _, x: ["maximum", x, 0.0],
    "relax.nn.relu6": lambda _, x: ["minimum", ["maximum", x, 0.0], 6.0],
    "relax.nn.silu": lambda _, x: ["multiply", x, ["sigmoid", x]],
    "relax.square": lambda _, x: ["multiply", x, x],
}
"""Relax operators that are several functions in one."""


def fuse_unary(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with chains of functions of one tensor fused; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    found: dict[relax.Var, tuple[relax.Var, Expression]] = {}
    for binding in flow.bindings:
        match = _match(binding, found)
        if match is None:
            builder.copy(binding)
            continue
        root, expression = match
        found[binding.var] = match
        call = make_call(op.Unary(expression=pointwise.write(expression)), builder.replaced(root))
        builder.values[binding.var] = builder.emit(call, binding.var.name)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _match(
    binding: Binding, found: dict[relax.Var, tuple[relax.Var, Expression]]
) -> tuple[relax.Var, Expression] | None:
    """Return (x, expression) if a binding is a function of one tensor x."""
    if not isinstance(binding.var.ty, relax.TensorType) or not isinstance(binding.value, relax.Call):
        return None
    ty = tensor_type(binding.var)
    name = binding.operator.removeprefix("relax.")
    if ty.dtype != "float32" or (binding.operator not in _DERIVED and name not in pointwise.FUNCTIONS):
        return None
    args = binding.value.args[:1] if binding.operator in _DERIVED else binding.value.args
    variables = [a for a in args if isinstance(a, relax.Var)]
    if not variables or any(tensor_type(v) != ty for v in variables):
        return None
    for unfold in (found, {}):
        roots = {unfold[v][0] if v in unfold else v for v in variables}
        operands = [_operand(a, unfold) for a in args]
        if len(roots) != 1 or any(o is None for o in operands):
            continue
        derived = _DERIVED.get(binding.operator)
        expression = derived(binding.value, operands[0]) if derived else [name, *operands]
        if _nodes(expression) <= MAX_NODES:
            return roots.pop(), expression
    return None


def _operand(arg: relax.Expr, found: dict[relax.Var, tuple[relax.Var, Expression]]) -> Any:
    if isinstance(arg, relax.Var):
        return found[arg][1] if arg in found else "x"
    value = constant(arg)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def _nodes(expression: Expression) -> int:
    return 1 + sum(_nodes(e) for e in expression[1:]) if isinstance(expression, list) else 1
