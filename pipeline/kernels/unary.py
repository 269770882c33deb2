"""`nn.unary`: one function of one float32 value, in vectors if all its parts have a form for vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from pipeline.dialect import pointwise
from pipeline.dialect.attributes import Unary
from pipeline.dialect.pointwise import Expression
from pipeline.kernels import vector_math
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.registry import kernel
from pipeline.kernels.vectors import lanes_of, span, splat

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": T.abs,
    "add": lambda a, b: a + b,
    "ceil": T.ceil,
    "cos": T.cos,
    "divide": lambda a, b: a / b,
    "erf": vector_math.erf,
    "exp": vector_math.exp,
    "floor": T.floor,
    "log": T.log,
    "maximum": T.max,
    "minimum": T.min,
    "multiply": lambda a, b: a * b,
    "negative": lambda a: -a,
    "power": T.pow,
    "round": T.nearbyint,
    "rsqrt": lambda a: splat(T.float32(1.0), lanes_of(a)) / T.sqrt(a),
    "sigmoid": vector_math.sigmoid,
    "sin": T.sin,
    "sqrt": T.sqrt,
    "subtract": lambda a, b: a - b,
    "tanh": vector_math.tanh,
}
"""The functions of `dialect.pointwise`, in TIR."""

_SCALAR = frozenset({"cos", "log", "power", "sin"})
"""Functions that call libm for each value."""

VECTORS = 2
"""Vectors that are computed together: while one waits for a result, the other goes on."""


@kernel(Unary, isa="portable")
def unary(operation: Operation, isa: InstructionSet) -> Kernel:
    """Evaluate the expression vector by vector, or value by value."""
    attrs = operation.attrs
    if not isinstance(attrs, Unary):
        raise TypeError(f"Expected nn.unary, got {attrs}")
    expression = _without_squares(pointwise.parse(attrs.expression))
    size = operation.output.size
    run = Run.of(size, 1 if _names(expression) & _SCALAR else isa.lanes * VECTORS, MAX_TASKS)
    loop = loop_for(size, run.tasks)

    @T.prim_func
    def func(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        for p in loop(run.tasks):
            for s in T.serial(run.steps):
                y[span(run.start(p, s), run.width)] = _tir(expression, x[span(run.start(p, s), run.width)])

    return Kernel(func, (0,))


def _without_squares(expression: Expression) -> Expression:
    """Return the expression with second powers as products."""
    if not isinstance(expression, list):
        return expression
    function, *operands = expression
    operands = [_without_squares(o) for o in operands]
    if function == "power" and operands[1] == 2.0:
        return ["multiply", operands[0], operands[0]]
    return [function, *operands]


def _names(expression: Expression) -> set[str]:
    """Return the functions that an expression uses."""
    if not isinstance(expression, list):
        return set()
    return {str(expression[0])}.union(*(_names(o) for o in expression[1:]))


def _tir(expression: Expression, x: tirx.PrimExpr) -> tirx.PrimExpr:
    if isinstance(expression, str):
        return x
    if isinstance(expression, int | float):
        return splat(T.float32(float(expression)), lanes_of(x))
    function, *operands = expression
    return _FUNCTIONS[function](*(_tir(o, x) for o in operands))
