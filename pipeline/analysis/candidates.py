"""What can be excepted from int8, and the order in which that is worth trying."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tvm import relax

from pipeline.analysis.switches import LAYER, WEIGHTS, Part
from pipeline.ir.bridge import tensor_operands, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.program import Program
from pipeline.ops import traits_of
from pipeline.quantization.annotate import AnnotateOptions, Annotation, annotate

FLOAT = "float"
"""Kind of a candidate that leaves operators in float."""

FLOAT_BYTES = 4
"""Bytes of a float32 value."""

SAVED_BY_INT8 = 3 / 4
"""Share of an operator's time in float that int8 saves, in the estimate."""

FIXED_COST = 0.01
"""What a candidate counts for besides the time of its operators, as a share of the whole float model's: values are
converted around it, and few exceptions are better than many."""


@dataclass(frozen=True)
class Candidate:
    """What can be excepted from int8.

    Attributes:
        kind: `FLOAT`.
        names: of the operators to leave in float.
        operators: names of all operators that are in float then and would be in int8 otherwise, `names` included.
    """

    kind: str
    names: tuple[str, ...]
    operators: frozenset[str]


@dataclass(frozen=True)
class Times:
    """What it costs in time to leave operators in float.

    Attributes:
        extra: how much longer each operator takes in float than in int8, as a share of the whole float model's time, by
            name, in order of execution. Where operators are fused, one may have what belongs to another, so that single
            ones may be below zero.
        origin: where that is known from, in words.
    """

    extra: Mapping[str, float]
    origin: str

    def of(self, operators: Collection[str]) -> float:
        """Return the extra time of some operators together, at least 0."""
        # Sets have another order in each process; this sum is the same in any.
        return max(math.fsum(self.extra.get(name, 0.0) for name in operators), 0.0)


def with_exceptions(options: AnnotateOptions, chosen: Iterable[Candidate]) -> AnnotateOptions:
    """Return options by which candidates are excepted from int8."""
    names = dict.fromkeys(name for candidate in chosen for name in candidate.names)
    return dataclasses.replace(options, skip=(*options.skip, *names))


def without_idle(chosen: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return candidates without those that change nothing beside the others, the first ones first."""
    kept = list(chosen)
    for candidate in chosen:
        others = [c for c in kept if c is not candidate]
        if candidate.operators <= frozenset[str]().union(*(c.operators for c in others)):
            kept = others
    return tuple(kept)


def candidates(
    program: Program, options: AnnotateOptions, annotation: Annotation, parts: Iterable[Part]
) -> tuple[Candidate, ...]:
    """Return what can be excepted: for each tensor the operators that read it, and each layer; in order of execution.

    Args:
        program: the float program.
        options: by which it was annotated.
        annotation: what is in int8.
        parts: what is rounded; see `switches`.
    """
    int8 = int8_operators(annotation)
    groups = dict.fromkeys(part.readers for part in parts if part.kind != LAYER)
    found = []
    for names in groups:
        left = int8_operators(annotate(program, dataclasses.replace(options, skip=(*options.skip, *names))))
        found.append(Candidate(FLOAT, names, int8 - left))
    return tuple(found)


def int8_operators(annotation: Annotation) -> frozenset[str]:
    """Return the names of the operators that are in int8."""
    return frozenset(o.name for o in annotation.operators if o.precision == "int8")


def estimated_times(program: Program) -> Times:
    """Return an estimate that is the same on every machine.

    An operator's time in float is the number of its multiply-adds and of bytes that it reads and writes, added up: a
    vector unit computes about as many multiply-adds as bytes come out of a cache in the same time. In int8, it takes a
    quarter of that, as a vector holds four times as many values.
    """
    work = {str(b.var.name): _work(b) for b in Dataflow.of(program.module).bindings}
    total = sum(work.values())
    extra = {name: SAVED_BY_INT8 * value / total if total else 0.0 for name, value in work.items()}
    return Times(extra, "estimated by multiply-adds and bytes")


def trial_order(choices: Sequence[Candidate], parts: Mapping[Part, float], times: Times) -> tuple[Candidate, ...]:
    """Return candidates in the order in which they are to be tried, each where it gains most for its time.

    What a candidate gains depends on those before it: a tensor stays in float only if all that read it do. The order
    ends where only one layer would be left in int8.

    Args:
        choices: the candidates.
        parts: what is rounded, and which share of the outputs' noise it makes.
        times: what operators cost in float.
    """
    counted = {part: share for part, share in parts.items() if part.kind != LAYER}
    layers = {part.name for part in counted if part.kind == WEIGHTS}
    left, kept, order = list(choices), frozenset[str](), list[Candidate]()

    def gain_for_time(candidate: Candidate) -> float:
        after = kept | candidate.operators
        gain = sum(share for part, share in counted.items() if after.issuperset(part.readers))
        return gain / (FIXED_COST + times.of(candidate.operators - kept))

    while left:
        counted = {part: share for part, share in counted.items() if not kept.issuperset(part.readers)}
        best = max(left, key=gain_for_time)
        left.remove(best)
        if not best.operators <= kept:
            kept |= best.operators
            if layers and kept >= layers:
                break
            order.append(best)
    return tuple(order)


def _work(binding: Binding) -> float:
    if not isinstance(binding.value, relax.Call) or not isinstance(binding.var.ty, relax.TensorType):
        return 0.0
    read = [tensor_type(o) for o in tensor_operands(binding.value)]
    moved = sum(FLOAT_BYTES * t.size for t in (*read, tensor_type(binding.var)))
    return moved + (traits_of(binding).multiply_adds(*read) if traits_of(binding).sums_products else 0)
