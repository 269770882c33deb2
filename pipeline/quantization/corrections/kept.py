"""The samples that corrections run and are checked on: some of those that calibration runs on, kept in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.distances import Distance
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.operator import Array
from pipeline.ir.program import Program, TensorSpec
from pipeline.ops import multiply_adds
from pipeline.quantization.corrections.correction import CannotCorrect
from pipeline.quantization.corrections.running import runner
from pipeline.quantization.state import State
from pipeline.quantization.statistics import HELD_BACK_EVERY, KeptBatches, Need

MOST, FEWEST = 16, 4
"""Batches to learn from, if a batch is small, and if it is large."""

WALKED, CHECKED = 0.5, 2
"""Of batches that are held back, how many a walk over all layers takes, and how many the outputs are compared on, for
each batch to learn from. A walk takes much longer than a run, and a few samples, some of them far noisier than the
others, don't tell which of two models is better."""

MEMORY = 128 * 2**20
"""Bytes that the batches and their activations may take, roughly."""

MULTIPLY_ADDS = 30 * 10**9
"""How many all batches may take."""


def kept_limit(program: Program) -> int:
    """Return how many batches are kept to learn from: as many as memory and time allow."""
    flow = Dataflow.of(program.module)
    tensors = [tensor_type(b.var) for b in flow.bindings if isinstance(b.var.ty, relax.TensorType)]
    read = [tensor_type(v) for v in flow.params] + [tensor_type(o) for o in flow.outputs]
    # A few of the largest activations are held at the same time, a byte each.
    size = sum(t.size * 4 for t in read) + 4 * max((t.size for t in tensors), default=0)
    work = sum(map(multiply_adds, flow.bindings))
    return max(FEWEST, min(MOST, MEMORY // max(size, 1), MULTIPLY_ADDS // max(work, 1)))


def kept_limits(program: Program) -> tuple[int, int]:
    """Return how many batches are kept to learn from, and how many of those that are held back."""
    limit = kept_limit(program)
    return limit, CHECKED * limit


def kept_needs(program: Program, to_learn: bool = True) -> tuple[Need, ...]:
    """Return what has to be kept: the inputs, and the float program's tensors that are compared for them.

    Args:
        program: the float program.
        to_learn: whether batches are kept to learn from, beside those that are held back.
    """
    limits, outputs = _limits(program, to_learn), [var for _, var in _outputs(program)]
    logits = (_logits(program, var) for var in outputs)
    kept = [v for v in (*Dataflow.of(program.module).params, *outputs, *logits) if isinstance(v, relax.Var)]
    return tuple(dict.fromkeys(Need(str(v.name), KeptBatches, limits) for v in kept))


def _limits(program: Program, to_learn: bool) -> tuple[int, int]:
    learned_from, held_back = kept_limits(program)
    return learned_from if to_learn else 0, held_back


def walked(held_back: Sequence[Any], learned_from: int) -> Sequence[Any]:
    """Return those of the batches held back that a walk takes, beside so many to learn from: spread evenly."""
    return held_back[:: max(1, math.ceil(len(held_back) / max(1, WALKED * learned_from)))]


def walked_feeds(state: State) -> tuple[list[dict[str, Array]], Sequence[dict[str, Array]]]:
    """Return the feeds that a walk over all layers learns from, and those that it checks layers on.

    Raises:
        CannotCorrect: there are too few samples.
    """
    learned_from, held_back = _kept_feeds(state)
    return learned_from, walked(held_back, len(learned_from))


def _kept_feeds(state: State) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
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

    Noise is the mean of batches' root sums of squares, in place of the root of their mean square: some samples are 30
    dB noisier than most, and would decide alone. The outputs' decibels are averaged, whatever their scales.

    In place of a softmax, what it is computed from is compared, less each row's mean, which makes no difference to a
    softmax: probabilities are nearly all 0 or 1, so a few samples would decide.

    Raises:
        CannotCorrect: there are too few samples.
    """
    pairs = _pairs(state.uncorrected, int8_program)
    _, held_back = _kept_feeds(state)
    names = {str(var.name): spec.name for spec, var in _outputs(int8_program)}
    # With its outputs, too, the program has the kernels of the library that is going to be built.
    run = runner(int8_program.with_more_outputs([p.name for p in pairs if p.name not in names]), len(held_back))
    expected = [_kept(state, pair.tensor).held_back for pair in pairs]
    distances: list[list[Distance]] = [[] for _ in pairs]
    for number, feed in enumerate(held_back):
        found = run(feed)
        for pair, values, own in zip(pairs, expected, distances, strict=True):
            own.append(Distance())
            own[-1].update(pair.compared(values[number]), pair.compared(found[names.get(pair.name, pair.name)]))
    return mean_sqnr_db(distances)


def mean_sqnr_db(outputs: Sequence[Sequence[Distance]]) -> float:
    """Return the mean of outputs' signal to quantization noise ratios, decibels; see `held_back_sqnr`.

    Args:
        outputs: for each output, the distance from what it should be of each batch.

    Returns:
        Infinity if no output has noise; minus infinity if one isn't finite.
    """
    found = []
    for batches in outputs:
        signal = math.sqrt(math.fsum(b.signal for b in batches) / len(batches))
        noise = math.fsum(math.sqrt(b.noise) for b in batches) / len(batches)
        if noise == math.inf:
            return -math.inf
        # An output that is always zero says nothing, and one that is computed exactly can't be made better.
        if signal > 0 and noise > 0:
            found.append(20 * (math.log10(signal) - math.log10(noise)))
    return math.fsum(found) / len(found) if found else math.inf


@dataclass(frozen=True)
class _Pair:
    """Two tensors that should be the same.

    Attributes:
        tensor: of the float program.
        name: of the int8 program's.
        logits: whether a softmax is computed from them.
    """

    tensor: relax.Var
    name: str
    logits: bool

    def compared(self, values: Array) -> Array:
        """Return what is compared of their values."""
        return np.asarray(values - values.mean(axis=-1, keepdims=True)) if self.logits else values


def _pairs(program: Program, int8_program: Program) -> list[_Pair]:
    """Return what is compared of a float and an int8 program: for each output of floats, it or its logits."""
    by_name = {str(b.var.name): b.var for b in Dataflow.of(int8_program.module).bindings}
    outputs = {spec.name: str(var.name) for spec, var in _outputs(int8_program)}
    found = []
    for spec, var in _outputs(program):
        logits = _logits(program, var)
        counterpart = None if logits is None else by_name.get(str(logits.name))
        if logits is not None and counterpart is not None and tensor_type(counterpart).dtype == "float32":
            found.append(_Pair(logits, str(counterpart.name), True))
        elif spec.dtype == "float32" and spec.name in outputs:
            found.append(_Pair(var, outputs[spec.name], False))
    return found


def _logits(program: Program, var: relax.Var) -> relax.Var | None:
    """Return what a tensor is the softmax of; None if it isn't one."""
    producer = Dataflow.of(program.module).producers.get(var)
    softmax = producer is not None and isinstance(operator_of(producer.value), ops.Softmax)
    return producer.value.args[0] if producer is not None and softmax else None


def _outputs(program: Program) -> list[tuple[TensorSpec, relax.Var]]:
    """Return a program's outputs that aren't constant, and what holds them."""
    outputs = Dataflow.of(program.module).outputs
    return [(s, v) for s, v in zip(program.outputs, outputs, strict=True) if isinstance(v, relax.Var)]


def finite(decibels: float) -> float | None:
    """Return decibels; None if there is no noise, or no signal."""
    return decibels if math.isfinite(decibels) else None


def _kept(state: State, var: relax.Var) -> KeptBatches:
    needs = (Need(str(var.name), KeptBatches, _limits(state.uncorrected, to_learn)) for to_learn in (True, False))
    found = next((state.statistics[need] for need in needs if need in state.statistics), None)
    if not isinstance(found, KeptBatches):
        raise TypeError(f"Expected batches of {var.name}, got {found}")
    return found
