"""What can be excepted from 8 bits, and the order in which that is worth trying."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from tvm import relax

from pipeline.analysis.switches import LAYER, TENSOR, WEIGHTS, Part
from pipeline.ir.bridge import operator_of, tensor_operands, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.program import Program
from pipeline.ops import Unary, multiply_adds, traits_of
from pipeline.quantization.annotate import AnnotateOptions, Annotation, annotate
from pipeline.quantization.widening import widenable

FLOAT, WIDE = "float", "16 bits"
"""Kinds of candidates: operators that are left in float, and a tensor that has 16 bits."""

FLOAT_BYTES = 4
"""Bytes of a float32 value."""

INT8_TIME = 1 / 4
"""An operator's time in int8, as a share of that in float, in the estimate."""

SAVED_BY_INT8 = 1 - INT8_TIME

WIDE_PRODUCT, WIDE_BYTE, WIDE_FUNCTION_BYTE = 1 / 4, 1 / 2, 2.0
"""How much longer an operator takes with 16 bits than in int8, in the estimate, as shares of float's multiply-add: for
each multiply-add, and for each byte that float would read or write. It is more for functions of one value, which are
interpolated in place of looked up.

Fitted to the times of PP-OCR v4's detector, whose 16-bit, 8-bit and float operators were measured on a CPU with
AVX512-VNNI: 9.2, 3.9 and 15.0 ms on one thread.
"""

FIXED_COST = 0.01
"""What a candidate counts for besides the time of its operators, as a share of the whole float model's: values are
converted around it, and few exceptions are better than many."""


@dataclass(frozen=True)
class Candidate:
    """What can be excepted from 8 bits.

    Attributes:
        kind: `FLOAT` or `WIDE`.
        names: of the operators to leave in float, or of the tensor to keep in 16 bits.
        operators: names of all operators that are in float then and would be in int8 otherwise, `names` included.
        tensors: names of all tensors that have 16 bits then.
    """

    kind: str
    names: tuple[str, ...]
    operators: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Times:
    """What exceptions cost in time, as shares of the whole float model's.

    Attributes:
        extra: how much longer each operator takes in float than in int8, by name, in order of execution. Where
            operators are fused, one may have what belongs to another, so that single ones may be below zero.
        wide: how much longer each operator takes with 16 bits than in int8, by name.
        touched: the operators that do if a tensor has 16 bits, by the tensor's name; see `touched_operators`.
        origin: where that is known from, in words.
    """

    extra: Mapping[str, float]
    wide: Mapping[str, float]
    touched: Mapping[str, tuple[str, ...]]
    origin: str

    def of(self, operators: Collection[str], tensors: Collection[str] = ()) -> float:
        """Return the extra time of operators in float and tensors in 16 bits together, at least 0.

        An operator counts once, whichever of its tensors have 16 bits, and only as one in float if it is.
        """
        wide = {name for tensor in tensors for name in self.touched.get(tensor, ())}.difference(operators)
        # Sets have another order in each process; this sum is the same in any.
        found = [*(self.extra.get(name, 0.0) for name in operators), *(self.wide.get(name, 0.0) for name in wide)]
        return max(math.fsum(found), 0.0)


def touched_operators(program: Program) -> dict[str, tuple[str, ...]]:
    """Return the operators of a float program that take longer if a tensor has 16 bits, by the tensor's name.

    These are those that read it and the one that writes it, unless that sums products: such an operator's time depends
    on its input.
    """
    flow = Dataflow.of(program.module)
    found = {}
    for var in (*flow.params, *(b.var for b in flow.bindings)):
        writer = flow.producers.get(var)
        writes = [] if writer is None or traits_of(writer).sums_products else [writer]
        found[str(var.name)] = tuple(str(b.var.name) for b in (*writes, *flow.users[var]))
    return found


def kept(chosen: Iterable[Candidate], kind: str) -> tuple[str, ...]:
    """Return the names that candidates of a kind have, each once, in order."""
    return tuple(dict.fromkeys(name for candidate in chosen if candidate.kind == kind for name in candidate.names))


def with_exceptions(options: AnnotateOptions, chosen: Iterable[Candidate]) -> AnnotateOptions:
    """Return options by which candidates are excepted from 8 bits."""
    given = list(chosen)
    skip, wide = (*options.skip, *kept(given, FLOAT)), (*options.keep_16, *kept(given, WIDE))
    return dataclasses.replace(options, skip=skip, keep_16=wide)


def without_idle(chosen: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return candidates without those that change nothing beside the others, the first ones first."""
    left = list(chosen)
    for candidate in chosen:
        others = [c for c in left if c is not candidate]
        operators = frozenset[str]().union(*(c.operators for c in others))
        tensors = frozenset[str]().union(*(c.tensors for c in others))
        if candidate.operators <= operators and candidate.tensors <= tensors:
            left = others
    return tuple(left)


def candidates(
    program: Program, options: AnnotateOptions, annotation: Annotation, parts: Iterable[Part]
) -> tuple[Candidate, ...]:
    """Return what can be excepted, in order of execution.

    For each tensor, these are the operators that read it and, if that is possible, the tensor in 16 bits; and each
    layer.

    Args:
        program: the float program.
        options: by which it was annotated.
        annotation: what is in int8.
        parts: what is rounded; see `switches`.
    """
    int8, wide = int8_operators(annotation), widenable(program, annotation)
    found = dict[Candidate, None]()
    for part in parts:
        if part.kind == TENSOR and part.name in wide:
            found[Candidate(WIDE, (part.name,), tensors=wide[part.name])] = None
        if part.kind != LAYER:
            skip = (*options.skip, *part.readers)
            left = int8_operators(annotate(program, dataclasses.replace(options, skip=skip), warn=False))
            found[Candidate(FLOAT, part.readers, int8 - left)] = None
    return tuple(found)


def int8_operators(annotation: Annotation) -> frozenset[str]:
    """Return the names of the operators that are in int8."""
    return frozenset(o.name for o in annotation.operators if o.precision == "int8")


def estimated_times(program: Program) -> Times:
    """Return an estimate that is the same on every machine.

    An operator's time in float is the number of its multiply-adds and of bytes that it reads and writes, added up: a
    vector unit computes about as many multiply-adds as bytes come out of a cache in the same time. In int8, it takes a
    quarter of that, as a vector holds four times as many values. With 16 bits, a vector holds half as many as in int8,
    and functions of one value aren't a single lookup; see `WIDE_PRODUCT`.
    """
    flow = Dataflow.of(program.module)
    sums, moved = ({str(b.var.name): count(b) for b in flow.bindings} for count in (multiply_adds, _moved_bytes))
    total = sum(sums.values()) + sum(moved.values()) or 1.0
    extra = {name: SAVED_BY_INT8 * (sums[name] + moved[name]) / total for name in sums}
    functions = {str(b.var.name) for b in flow.bindings if isinstance(operator_of(b.value), Unary)}
    per_byte = {name: WIDE_FUNCTION_BYTE if name in functions else WIDE_BYTE for name in sums}
    wide = {name: (WIDE_PRODUCT * sums[name] + per_byte[name] * moved[name]) / total for name in sums}
    return Times(extra, wide, touched_operators(program), "estimated by multiply-adds and bytes")


def trial_order(choices: Sequence[Candidate], parts: Mapping[Part, float], times: Times) -> tuple[Candidate, ...]:
    """Return candidates in the order in which they are to be tried, each where it gains most for its time.

    What a candidate gains depends on those before it: a tensor stays in float only if all that read it do. Candidates
    that would leave no layer in int8 are left out.

    Args:
        choices: the candidates.
        parts: what is rounded, and which share of the outputs' noise it makes.
        times: what they cost.
    """
    counted = {part: share for part, share in parts.items() if part.kind != LAYER}
    layers = {part.name for part in counted if part.kind == WEIGHTS}
    left, order = list(choices), list[Candidate]()
    operators, tensors = frozenset[str](), frozenset[str]()

    def gained(in_float: Set[str], wide: Set[str]) -> list[Part]:
        return [p for p in counted if in_float >= set(p.readers) or (p.kind == TENSOR and p.name in wide)]

    def gain_for_time(candidate: Candidate) -> float:
        gain = sum(counted[part] for part in gained(operators | candidate.operators, tensors | candidate.tensors))
        together = times.of(operators | candidate.operators, tensors | candidate.tensors)
        return gain / (FIXED_COST + max(together - times.of(operators, tensors), 0.0))

    while left:
        best = max(left, key=gain_for_time)
        left.remove(best)
        changes_nothing = best.operators <= operators and best.tensors <= tensors
        if changes_nothing or (layers and operators | best.operators >= layers):
            continue
        operators, tensors = operators | best.operators, tensors | best.tensors
        order.append(best)
        for part in gained(operators, tensors):
            del counted[part]
    return tuple(order)


def _moved_bytes(binding: Binding) -> int:
    if not isinstance(binding.value, relax.Call) or not isinstance(binding.var.ty, relax.TensorType):
        return 0
    tensors = (*map(tensor_type, tensor_operands(binding.value)), tensor_type(binding.var))
    return sum(FLOAT_BYTES * t.size for t in tensors)
