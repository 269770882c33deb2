"""`nn.unary`: one function of one float32 value, vector by vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from pipeline.dialect import pointwise
from pipeline.dialect.attributes import Unary
from pipeline.dialect.pointwise import Expression
from pipeline.kernels.exponential import exp
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.registry import kernel

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": T.abs,
    "add": lambda a, b: a + b,
    "ceil": T.ceil,
    "cos": T.cos,
    "divide": lambda a, b: a / b,
    "erf": T.erf,
    "exp": exp,
    "floor": T.floor,
    "log": T.log,
    "maximum": T.max,
    "minimum": T.min,
    "multiply": lambda a, b: a * b,
    "negative": lambda a: -a,
    "power": T.pow,
    "round": T.nearbyint,
    "rsqrt": lambda a: T.FloatImm("float32", 1.0) / T.sqrt(a),
    "sigmoid": lambda a: T.FloatImm("float32", 1.0) / (T.FloatImm("float32", 1.0) + exp(-a)),
    "sin": T.sin,
    "sqrt": T.sqrt,
    "subtract": lambda a, b: a - b,
    "tanh": T.tanh,
}
"""The functions of `dialect.pointwise`, in TIR."""


@kernel(Unary, isa="portable")
def unary(operation: Operation, isa: InstructionSet) -> Kernel:
    """Evaluate the expression element by element; LLVM makes vectors of it where the functions have vector forms."""
    del isa
    attrs = operation.attrs
    if not isinstance(attrs, Unary):
        raise TypeError(f"Expected nn.unary, got {attrs}")
    expression = pointwise.parse(attrs.expression)
    size = operation.output.size

    @T.prim_func
    def func(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        for i in T.serial(size):
            y[i] = _tir(expression, x[i])

    return Kernel(func, (0,))


def _tir(expression: Expression, x: tirx.PrimExpr) -> tirx.PrimExpr:
    if isinstance(expression, str):
        return x
    if isinstance(expression, int | float):
        return tirx.FloatImm("float32", float(expression))
    function, *operands = expression
    return _FUNCTIONS[function](*(_tir(o, x) for o in operands))
