"""Gives the few widest channels of a tensor between two dense layers a tensor, and so a scale, of their own.

In transformers, single channels between the two dense layers of a block, behind GELU, are ten times as wide as all
others. A function of single values doesn't let factors pass, as equalization would need. But the second layer's sums
are those over some channels plus those over the others, so that both layers can be cut in two: W f(V x) is
W1 f(V1 x) + W2 f(V2 x). Each part has scales of its own, of the tensors before the function as well, and the sum of
both is added up in float, where the result is read. Source: T. Dettmers et al., "LLM.int8(): 8-bit Matrix
Multiplication for Transformers at Scale", 2022, which multiplies such channels in float16.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from tvm import relax

from pipeline import ops
from pipeline.errors import TableError, unknown_name
from pipeline.ir.bridge import make_call, operator_of
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant, with_arguments
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.ir.rewriting import rewrite_bindings
from pipeline.quantization.annotation import Annotation, OperatorDecision, TensorDecision
from pipeline.quantization.equalization import constants_of, expected_noise, seen_of_channels
from pipeline.quantization.selection import PART
from pipeline.quantization.statistics import ChannelMaxima, ChannelPowers, Need, Statistic

COUNTS = (16, 32, 64)
"""How many channels may be set apart: whole vectors of every instruction set."""

SHARE = 0.25
"""The largest share of a tensor's channels that may be set apart."""

SUM = ".sum"
"""Suffix of the name of what adds the results of the second layer's two parts."""

WORTH, ENOUGH = 0.5, 1.1
"""The second layer's expected noise has to fall to this share; and the fewest channels are taken with which it is at
most so many times the smallest."""


@dataclass(frozen=True)
class Chain:
    """Two dense layers with functions of single values between them.

    Attributes:
        bindings: all of them, in order.
    """

    bindings: tuple[Binding, ...]

    @property
    def tensor(self) -> str:
        """Name of what the second layer reads."""
        return str(self.bindings[-2].var.name)

    @property
    def second_weight(self) -> Array:
        """The second layer's weights [O,C]."""
        return constants_of(self.bindings[-1])[0]


def chains(program: Program, annotation: Annotation) -> tuple[Chain, ...]:
    """Return the pairs of int8 dense layers that can be cut in two: what reads the second one's result is in float."""
    flow = Dataflow.of(program.module)
    int8 = {o.name for o in annotation.operators if o.precision == "int8"}
    narrow = {t.name for t in annotation.calibrated() if t.spec is not None and t.spec.dtype == "uint8"}
    # A layer's sums that a function reads before they are rounded have no scale at all.
    others = {t.name for t in annotation.tensors} - narrow | {t.shares for t in annotation.tensors}
    found = []
    for second in flow.bindings:
        read_in_int8 = any(user.var.name in int8 for user in flow.users[second.var])
        if not _is_layer(second, int8) or _is_limited(second) or read_in_int8:
            continue
        path = [second]
        while True:
            producer = flow.producers.get(path[0].value.args[0])
            if producer is None or producer.var.name not in int8 - others:
                break
            if flow.only_user(producer.var) is not path[0]:
                break
            path.insert(0, producer)
            if _is_layer(producer, int8):
                found.append(Chain(tuple(path)))
                break
            if not (ops.traits_of(producer).elementwise and len(producer.value.args) == 1):
                break
    return tuple(found)


def needs(program: Program, annotation: Annotation) -> tuple[Need, ...]:
    """Return what has to be known of the tensors whose wide channels can be set apart."""
    return tuple(Need(c.tensor, s) for c in chains(program, annotation) for s in (ChannelMaxima, ChannelPowers))


def choose_channels(
    program: Program, annotation: Annotation, statistics: Mapping[Need, Statistic]
) -> dict[str, tuple[int, ...]]:
    """Return the channels to set apart, for each tensor where that is worth it.

    Args:
        program: the float program.
        annotation: what becomes int8.
        statistics: what `needs` has asked for; of other tensors, nothing is set apart.
    """
    chosen = {}
    for chain in chains(program, annotation):
        seen = seen_of_channels(statistics, chain.tensor)
        channels = () if seen is None else _widest(chain.second_weight, *seen)
        if channels:
            chosen[chain.tensor] = channels
    return chosen


def _widest(weight: Array, maxima: Array, powers: Array) -> tuple[int, ...]:
    order = np.argsort(-maxima, kind="stable")
    grouped = weight.astype("float64").T[None, :, :, None]

    def noise(channels: Array) -> float:
        return expected_noise(grouped[:, channels], maxima[channels], powers[channels], np.ones(len(channels)))

    counts = [count for count in COUNTS if count <= SHARE * len(order)]
    noises = [noise(order[:count]) + noise(order[count:]) for count in counts]
    if not noises or min(noises) > WORTH * noise(order):
        return ()
    enough = next(count for count, own in zip(counts, noises, strict=True) if own <= ENOUGH * min(noises))
    return tuple(sorted(int(channel) for channel in order[:enough]))


def set_apart(
    program: Program, annotation: Annotation, channels: Mapping[str, Sequence[int]]
) -> tuple[Program, Annotation]:
    """Return a program in which channels have tensors of their own, and its annotation.

    What belongs to the other channels keeps its name, the second layer included; their sum gets a new one.

    Args:
        program: the float program.
        annotation: what becomes int8.
        channels: by the name of the tensor between two dense layers.

    Raises:
        TableError: a tensor isn't one whose channels can be set apart, or hasn't these channels.
    """
    known = {chain.tensor: chain for chain in chains(program, annotation)}
    apart: dict[relax.Var, Array] = {}
    for name, own in channels.items():
        chain = known.get(name)
        if chain is None:
            raise TableError(f"Wide channels: {unknown_name('tensor between two dense layers', name, known)}")
        count = chain.second_weight.shape[1]
        if not own or sorted(set(own)) != list(own) or own[0] < 0 or own[-1] >= count or len(own) == count:
            raise TableError(
                f"Wide channels: tensor {name!r} has {count} channels; some of these are needed, in order."
            )
        apart |= {binding.var: np.isin(np.arange(count), own) for binding in chain.bindings}
    lasts = {known[name].bindings[-1].var for name in channels}
    wide: dict[relax.Expr, relax.Var] = {}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if binding.var not in apart:
            return None
        chosen, name, read = apart[binding.var], str(binding.var.name), binding.value.args[0]
        parts = []
        for part, own in (("", ~chosen), (PART, chosen)):
            arguments = [wide[read] if part and read in wide else builder.replaced(read)]
            if isinstance(operator_of(binding.value), ops.Dense):
                weight, bias = constants_of(binding)
                if binding.var in lasts:
                    weight, bias = weight[:, own], np.zeros_like(bias) if part else bias
                else:
                    weight, bias = weight[own], bias[own]
                arguments += [make_constant(weight), make_constant(bias)]
            parts.append(builder.emit(with_arguments(binding.value, arguments), name + part))
        if binding.var in lasts:
            return builder.emit(make_call(ops.Add(), *parts), name + SUM)
        wide[binding.var] = parts[1]
        return parts[0]

    names, summed = ({str(var.name) for var in own} for own in (apart, lasts))
    decisions = _with_parts(annotation, names, summed)
    return dataclasses.replace(program, module=rewrite_bindings(program.module, visit)), decisions


def without_parts(annotation: Annotation) -> Annotation:
    """Return what an annotation says of a program whose channels aren't set apart."""
    own = {o.name for o in annotation.operators} | {t.name for t in annotation.tensors}

    def is_part(decision: OperatorDecision | TensorDecision) -> bool:
        part = decision.name.removesuffix(SUM) + PART if decision.name.endswith(SUM) else decision.name
        return part.endswith(PART) and part in own and part.removesuffix(PART) in own

    return Annotation(
        operators=tuple(o for o in annotation.operators if not is_part(o)),
        tensors=tuple(t for t in annotation.tensors if not is_part(t)),
    )


def _with_parts(annotation: Annotation, names: set[str], summed: set[str]) -> Annotation:
    operators, tensors = [], []
    for operator in annotation.operators:
        operators.append(operator)
        if operator.name in names:
            operators.append(replace(operator, name=operator.name + PART))
        if operator.name in summed:
            reason = "it adds what the two parts of a layer give, which are float"
            added = OperatorDecision(name=operator.name + SUM, operator="add", precision="float32", reason=reason)
            operators.append(added)
    for tensor in annotation.tensors:
        tensors.append(tensor)
        if tensor.name in names:
            tensors.append(replace(tensor, name=tensor.name + PART))
    return Annotation(operators=tuple(operators), tensors=tuple(tensors))


def _is_layer(binding: Binding, int8: set[str]) -> bool:
    return (
        binding.var.name in int8
        and isinstance(operator_of(binding.value), ops.Dense)
        and all(constant(a) is not None for a in binding.value.args[1:3])
    )


def _is_limited(binding: Binding) -> bool:
    operator = operator_of(binding.value)
    return isinstance(operator, ops.Clipped) and operator.is_limited
