"""Executes a whole program in NumPy, operator by operator: the reference that compiled libraries are tested by.

Each operator is computed by its own definition, `Traits.evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import relax

from pipeline.ir.bridge import tensor_operands
from pipeline.ir.dataflow import Binding, Dataflow, constant
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.ops import traits_of


def execute(program: Program, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return a program's outputs by name.

    Args:
        program: a float or int8 program.
        feeds: an array for each input, by name, of the program's shapes and dtypes.

    Raises:
        NotImplementedError: an operator of the program has no NumPy reference.
    """
    values = execute_all(program, feeds)
    outputs = Dataflow.of(program.module).outputs
    return {spec.name: _value(expr, values) for spec, expr in zip(program.outputs, outputs, strict=True)}


def execute_all(program: Program, feeds: Mapping[str, Array]) -> dict[relax.Var, Array]:
    """Return the value of every variable of a program; see `execute`."""
    flow = Dataflow.of(program.module)
    values: dict[relax.Var, Any] = {p: feeds[i.name] for p, i in zip(flow.params, program.inputs, strict=True)}
    for binding in flow.bindings:
        values[binding.var] = evaluate_binding(binding, values)
    return values


def evaluate_binding(binding: Binding, values: Mapping[relax.Var, Any]) -> Any:
    """Return the value of one binding, given the values of the variables that it reads; see `execute`."""
    value = binding.value
    if isinstance(value, relax.Tuple):
        return _value(value, values)
    if isinstance(value, relax.TupleGetItem):
        return _value(value.tuple_value, values)[value.index]
    try:
        return traits_of(binding).evaluate(*(a for o in tensor_operands(value) for a in _tensors(_value(o, values))))
    except NotImplementedError as error:
        raise NotImplementedError(f"{binding.var.name!r}, {binding.operator}: {error}") from error


def _tensors(value: Any) -> tuple[Array, ...]:
    return value if isinstance(value, tuple) else (value,)


def _value(expr: relax.Expr, values: Mapping[relax.Var, Any]) -> Any:
    if isinstance(expr, relax.Var):
        return values[expr]
    if isinstance(expr, relax.Tuple):
        return tuple(_value(f, values) for f in expr.fields)
    return constant(expr)
