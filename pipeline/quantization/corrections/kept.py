"""The samples that corrections run and are checked on: some of those that calibration runs on, kept in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tvm import relax

from pipeline.compiler.execute import Executor
from pipeline.distances import Distance
from pipeline.ir.bridge import tensor_operands, tensor_type
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.ops import traits_of
from pipeline.quantization.corrections.correction import CannotCorrect
from pipeline.quantization.state import State
from pipeline.quantization.statistics import HELD_BACK_EVERY, KeptBatches, Need
from pipeline.reference import execute

MOST, FEWEST = 24, 4
"""Batches to learn from, if a batch is small, and if it is large; half as many more are held back."""

MEMORY = 128 * 2**20
"""Bytes that the batches and their activations may take, roughly."""

MULTIPLY_ADDS = 30 * 10**9
"""How many all batches may take, as they run in NumPy."""


def kept_limit(program: Program) -> int:
    """Return how many batches are kept to learn from: as many as memory and time allow."""
    flow = Dataflow.of(program.module)
    tensors = [tensor_type(b.var) for b in flow.bindings if isinstance(b.var.ty, relax.TensorType)]
    read = [tensor_type(v) for v in flow.params] + [tensor_type(o) for o in flow.outputs]
    # A few of the largest activations are held at the same time, a byte each.
    size = sum(t.size * 4 for t in read) + 4 * max((t.size for t in tensors), default=0)
    work = sum(
        traits_of(b).multiply_adds(*map(tensor_type, tensor_operands(b.value)))
        for b in flow.bindings
        if isinstance(b.value, relax.Call) and traits_of(b).sums_products
    )
    return max(FEWEST, min(MOST, MEMORY // max(size, 1), MULTIPLY_ADDS // max(work, 1)))


def kept_needs(program: Program) -> tuple[Need, ...]:
    """Return what has to be kept: the inputs, and what the float program gives for them."""
    flow, limit = Dataflow.of(program.module), kept_limit(program)
    names = (str(v.name) for v in (*flow.params, *flow.outputs) if isinstance(v, relax.Var))
    return tuple(dict.fromkeys(Need(name, KeptBatches, (limit,)) for name in names))


def kept_feeds(state: State) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Return the feeds to learn from, and those that are held back; see `kept_needs`.

    Raises:
        CannotCorrect: there are too few samples.
    """
    program = state.uncorrected
    kept = {i.name: _kept(state, p) for p, i in zip(Dataflow.of(program.module).params, program.inputs, strict=True)}
    sides = [[own.learned_from for own in kept.values()], [own.held_back for own in kept.values()]]
    learned_from, held_back = ([dict(zip(kept, values, strict=True)) for values in zip(*s, strict=True)] for s in sides)
    if not held_back:
        raise CannotCorrect(f"there are fewer than {HELD_BACK_EVERY} batches of samples, so none to check it on")
    return learned_from, held_back


def held_back_sqnr(state: State, int8_program: Program) -> float:
    """Return the signal to quantization noise of an int8 program's outputs on held-back samples, in decibels.

    Raises:
        CannotCorrect: there are too few samples.
    """
    runner, distance, program = _Runner(int8_program), Distance(), state.uncorrected
    outputs = {
        spec.name: _kept(state, v).held_back
        for spec, v in zip(program.outputs, Dataflow.of(program.module).outputs, strict=True)
        if isinstance(v, relax.Var) and spec.dtype.startswith("float")
    }
    for number, feed in enumerate(kept_feeds(state)[1]):
        found = runner.run(feed)
        for name, expected in outputs.items():
            distance.update(expected[number], found[name])
    return distance.sqnr_db


def finite(decibels: float) -> float | None:
    """Return decibels; None if there is no noise, or no signal."""
    return decibels if math.isfinite(decibels) else None


class _Runner:
    """Runs a program in NumPy, or compiled if it has operators that NumPy can't do; compiling takes longer."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._executor: Executor | None = None

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        if self._executor is None:
            try:
                return execute(self._program, feed)
            except NotImplementedError:
                self._executor = Executor(self._program)
        return self._executor.run(feed)


def _kept(state: State, var: relax.Var) -> KeptBatches:
    found = state.statistics[Need(str(var.name), KeptBatches, (kept_limit(state.uncorrected),))]
    if not isinstance(found, KeptBatches):
        raise TypeError(f"Expected batches of {var.name}, got {found}")
    return found
