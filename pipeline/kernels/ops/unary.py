"""`nn.unary`: one function of one float32 value, in vectors if all its parts have a form for vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib import vector_math
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import lanes_of, larger, smaller, span, splat
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import Unary
from pipeline.ops.formula import Step

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
    "maximum": lambda a, b: larger(b, a) if _is_number(a) else larger(a, b),
    "minimum": lambda a, b: smaller(b, a) if _is_number(a) else smaller(a, b),
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
"""The functions of `ops.formula`, in TIR."""

_SCALAR = frozenset({"cos", "log", "power", "sin"})
"""Functions that call libm for each value."""

VECTORS = 2
"""How many vectors are computed at the same time: while one waits for a result, the CPU works on the other."""


def unary(operation: Operation, machine: Machine) -> Kernel:
    """Evaluate the expression vector by vector, or value by value."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, Unary):
        raise TypeError(f"Expected nn.unary, got {operator}")
    formula = operator.formula
    size = operation.output.size
    scalar = any(_calls_libm(step) for step in formula.steps)
    run = Run.of(size, 1 if scalar else isa.lanes * VECTORS, MAX_TASKS)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "float32"))
        y = T.arg("y", T.buffer((size,), "float32"))
        with loop_for(size, run.tasks)(run.tasks) as task, T.serial(run.steps) as step:
            place = span(run.start(task, step), run.width)
            value = formula.fold(
                _kept(x[place]),
                lambda number: splat(T.float32(number), run.width),
                lambda function, *operands: _kept(_value(function, operands)),
            )
            T.buffer_store(y, value, [place])
    return Kernel(builder.get(), (0,))


def _kept(value: Any) -> Any:
    """Return a value through a buffer in a register, so that it is computed once.

    If it were bound to a variable, TVM's simplifier would substitute it everywhere, which takes exponential time.
    """
    register = register_buffer(lanes_of(value), "float32")
    everything = span(0, lanes_of(value))
    T.buffer_store(register, value, [everything])
    return register[everything]


def _value(function: str, operands: tuple[Any, ...]) -> Any:
    if function == "power" and _is_two(operands[1]):
        return operands[0] * operands[0]
    return _FUNCTIONS[function](*operands)


def _is_two(value: Any) -> bool:
    return _is_number(value) and float(_scalar(value).value) == 2.0


def _is_number(value: Any) -> bool:
    return isinstance(_scalar(value), tirx.FloatImm)


def _scalar(value: Any) -> Any:
    return value.value if isinstance(value, tirx.Broadcast) else value


def _calls_libm(step: Step) -> bool:
    """Return whether a step has no form for vectors; a square is a product."""
    function, operands = step
    return function in _SCALAR and not (function == "power" and operands[1] == 2.0)
