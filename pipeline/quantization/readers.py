"""What becomes of a tensor's values where they are read: see `quantization.observers.readers`."""

from __future__ import annotations

from types import UnionType

from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import operator_of, tensor_operands
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ops.formula import Formula, X
from pipeline.ops.relax_operators import Elementwise
from pipeline.quantization.observers.readers import Array, Reader, as_it_is, in_products


def readers_of(flow: Dataflow, var: relax.Var) -> tuple[Reader, ...]:
    """Return what the operators that read a tensor make of its values, each function once.

    Operators that only move values are followed to those that read their results, and so are functions of one value: a
    function of a function is one reader.

    Args:
        flow: a float program.
        var: one of its tensors.
    """
    found = dict.fromkeys(formulas or last for formulas, last in _followed(flow, var))
    return tuple(_Composed(f) if isinstance(f, tuple) else f for f in found) or (as_it_is,)


class _Composed:
    """Functions one after the other."""

    def __init__(self, formulas: tuple[Formula, ...]) -> None:
        self.formulas = formulas

    def __call__(self, values: Array) -> Array:
        for formula in self.formulas:
            values = formula(values)
        return values


def _followed(flow: Dataflow, var: relax.Var) -> list[tuple[tuple[Formula, ...], Reader]]:
    """Return what combines a tensor's values in the end, each with the functions that they go through before."""
    found: list[tuple[tuple[Formula, ...], Reader]] = [((), as_it_is)] if var in flow.outputs else []
    for user in flow.users[var]:
        formula = _formula(user)
        if formula is None:
            found.append(((), _combining(flow, var, user)))
        else:
            following = _followed(flow, user.var) or [((), as_it_is)]
            found += [((formula, *rest) if formula != X else rest, last) for rest, last in following]
    return list(dict.fromkeys(found))


def _combining(flow: Dataflow, var: relax.Var, user: Binding) -> Reader:
    """Return the reader that stands for an operator which combines values of a tensor."""
    producer = flow.producers.get(var)
    normalized = producer is not None and _is(producer, ops.LayerNorm)
    return in_products if normalized and _is(user, ops.Dense | ops.MatMul) else as_it_is


def _is(binding: Binding, operators: type[ops.Operator] | UnionType) -> bool:
    return isinstance(binding.value, relax.Call) and isinstance(operator_of(binding.value), operators)


def _formula(binding: Binding) -> Formula | None:
    """Return which function of one value an operator is, the value itself if it moves values; None if it is neither."""
    if not isinstance(binding.value, relax.Call):
        return None
    traits = ops.traits_of(binding)
    if traits.moves_values:
        return X
    if isinstance(traits, ops.Unary):
        return traits.formula
    if isinstance(traits, Elementwise) and len(tensor_operands(binding.value)) == 1:
        return traits.formula(X)
    return None
