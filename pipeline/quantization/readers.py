"""What becomes of a tensor's values where they are read: see `quantization.observers.readers`."""

from __future__ import annotations

from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import tensor_operands
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ops.formula import Formula, X
from pipeline.ops.relax_operators import Elementwise
from pipeline.quantization.observers.readers import Array, Reader, as_it_is


def readers_of(flow: Dataflow, var: relax.Var) -> tuple[Reader, ...]:
    """Return what the operators that read a tensor make of its values, each function once.

    Operators that only move values are followed to those that read their results, and so are functions of one value: a
    function of a function is one reader.

    Args:
        flow: a float program.
        var: one of its tensors.
    """
    functions = _followed(flow, var)
    return tuple(_Composed(f) if f else as_it_is for f in functions) or (as_it_is,)


class _Composed:
    """Functions one after the other."""

    def __init__(self, formulas: tuple[Formula, ...]) -> None:
        self.formulas = formulas

    def __call__(self, values: Array) -> Array:
        for formula in self.formulas:
            values = formula(values)
        return values


def _followed(flow: Dataflow, var: relax.Var) -> list[tuple[Formula, ...]]:
    """Return the functions that each operator which combines values gets a tensor's values through, in order."""
    found: list[tuple[Formula, ...]] = [()] if var in flow.outputs else []
    for user in flow.users[var]:
        formula = _formula(user)
        if formula is None:
            found.append(())
        else:
            following = _followed(flow, user.var) or [()]
            found += [(formula, *rest) if formula != X else rest for rest in following]
    return list(dict.fromkeys(found))


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
