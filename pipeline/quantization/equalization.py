"""Evens out the channels of a tensor, so that one scale fits them all: wide ones become narrower, narrow ones wider.

Sources: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.1 (cross-layer equalization); G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models", 2022, for layers behind a layer normalization. Where a layer computes a tensor and only layers
with constant weights read it, dividing the tensor's channel c by f_c in the one, and multiplying what the others
multiply it with by f_c, leaves the function as it is. A rectifier between them allows that, as max(x / f, 0) is
max(x, 0) / f; any other limit doesn't.

SmoothQuant's factors f_c = sqrt(max |x_c| / max |w_c|) share a channel's width between the tensor and the weights,
here relative to what each of the weights' channels has for its largest. Where all readers are depthwise, whose weights
have a scale for each channel anyway, f_c is max |x_c|, and the tensor's channels become equally wide for nothing.

Factors are powers of two: no product or sum changes by a bit. They are part of the calibration table, whose scales are
right for the equalized program only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.errors import TableError, unknown_name
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant, with_arguments
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.ir.rewriting import rewrite_bindings
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.statistics import ChannelMaxima, Need, Statistic

LARGEST_EXPONENT = 8
"""Factors are at most 2 to this power apart from one, so that dead channels don't become loud ones."""


@dataclass(frozen=True)
class Place:
    """A tensor whose channels can be evened out.

    Attributes:
        tensor: its name.
        producer: the operator that computes it.
        readers: those that read it, and nobody else does.
    """

    tensor: str
    producer: Binding
    readers: tuple[Binding, ...]


def places(program: Program, annotation: Annotation) -> tuple[Place, ...]:
    """Return the tensors whose channels can be evened out, and that are 8-bit, with their own scale."""
    flow = Dataflow.of(program.module)
    int8 = {o.name for o in annotation.operators if o.precision == "int8"}
    scaled = {t.name for t in annotation.calibrated()}
    shared = {t.shares for t in annotation.tensors}
    found = []
    for binding in flow.bindings:
        name, readers = str(binding.var.name), flow.users[binding.var]
        own = name in scaled and name not in shared and binding.var not in flow.outputs
        if own and _scales(binding) and readers and all(r.var.name in int8 and _reads(r, binding) for r in readers):
            found.append(Place(name, binding, readers))
    return tuple(found)


def needs(program: Program, annotation: Annotation) -> tuple[Need, ...]:
    """Return what has to be known of the tensors that can be evened out."""
    return tuple(Need(place.tensor, ChannelMaxima) for place in places(program, annotation))


def choose_exponents(
    program: Program, annotation: Annotation, statistics: Mapping[Need, Statistic]
) -> dict[str, tuple[int, ...]]:
    """Return the exponent of each channel's factor, for each tensor that has others than zero.

    Args:
        program: the float program.
        annotation: what becomes int8.
        statistics: what `needs` has asked for.
    """
    chosen = {}
    for place in places(program, annotation):
        seen = statistics[Need(place.tensor, ChannelMaxima)]
        if not isinstance(seen, ChannelMaxima):
            raise TypeError(f"Expected the maxima of {place.tensor}, got {seen}")
        exponents = _exponents(place, seen.maxima)
        if any(exponents):
            chosen[place.tensor] = exponents
    return chosen


def equalized(program: Program, annotation: Annotation, exponents: Mapping[str, Sequence[int]]) -> Program:
    """Return a program in which tensors' channels are divided by powers of two, and what reads them makes up for that.

    Args:
        program: the float program.
        annotation: what becomes int8.
        exponents: of each channel's power of two, by the tensor's name.

    Raises:
        TableError: a tensor isn't one that can be evened out, or has another number of channels.
    """
    known = {place.tensor: place for place in places(program, annotation)}
    divided: dict[relax.Var, Array] = {}
    multiplied: dict[relax.Var, Array] = {}
    for name, own in exponents.items():
        place = known.get(name)
        if place is None:
            raise TableError(f"Equalization: {unknown_name('tensor that can be equalized', name, known)}")
        channels = tensor_type(place.producer.var).shape[-1]
        if len(own) != channels:
            raise TableError(f"Equalization: tensor {name!r} has {channels} channels, and {len(own)} exponents.")
        divided[place.producer.var] = np.asarray(own)
        multiplied |= {reader.var: np.asarray(own) for reader in place.readers}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if binding.var not in divided and binding.var not in multiplied:
            return None
        weight, bias = _constants(binding)
        if binding.var in multiplied:
            weight = _with_columns(binding, weight, multiplied[binding.var])
        if binding.var in divided:
            rows = -divided[binding.var]
            weight = np.ldexp(weight, rows.reshape(-1, *(1,) * (weight.ndim - 1)))
            bias = np.ldexp(bias, rows)
        x = builder.replaced(binding.value.args[0])
        return with_arguments(binding.value, [x, make_constant(weight), make_constant(bias)])

    return dataclasses.replace(program, module=rewrite_bindings(program.module, visit))


def _scales(binding: Binding) -> bool:
    """Return whether dividing an operator's constants by factors of its channels divides its result by them."""
    operator = operator_of(binding.value)
    if not isinstance(operator, ops.Linear | ops.LayerNorm) or any(
        constant(a) is None for a in binding.value.args[1:3]
    ):
        return False
    if isinstance(operator, ops.LayerNorm):
        return True
    return operator.clip_min in (None, 0) and operator.clip_max is None


def _reads(reader: Binding, producer: Binding) -> bool:
    """Return whether an operator multiplies another's channels with constant weights."""
    operator = operator_of(reader.value)
    return (
        isinstance(operator, ops.Conv2d | ops.Dense)
        and reader.value.args[0].same_as(producer.var)
        and all(constant(a) is not None for a in reader.value.args[1:3])
    )


def _constants(binding: Binding) -> tuple[Array, Array]:
    first, second = (constant(a) for a in binding.value.args[1:3])
    if first is None or second is None:
        raise TypeError(f"{binding.var.name} has no constant weights")
    return first, second


def _groups(binding: Binding) -> int:
    operator = operator_of(binding.value)
    return operator.groups if isinstance(operator, ops.Conv2d) else 1


def _with_columns(binding: Binding, weight: Array, exponents: Array) -> Array:
    """Return weights [O,...,C/groups] whose columns are multiplied by powers of two, one for each channel of x."""
    groups = _groups(binding)
    grouped = weight.reshape(groups, -1, weight.shape[-1])
    return np.asarray(np.ldexp(grouped, exponents.reshape(groups, 1, -1)).reshape(weight.shape))


def _exponents(place: Place, maxima: Array) -> tuple[int, ...]:
    """Return a channel's exponents for the largest magnitudes that were seen of it, [C]."""
    widths = np.sqrt(maxima * _shares(place, maxima))
    alive = widths > 0
    if not alive.any():
        return (0,) * len(maxima)
    logarithms = np.log2(widths, where=alive, out=np.zeros_like(widths))
    relative = np.rint(logarithms - logarithms[alive].max())
    return tuple(int(e) for e in np.where(alive, np.maximum(relative, -LARGEST_EXPONENT), 0))


def _shares(place: Place, maxima: Array) -> Array:
    """Return by what a tensor's maxima are multiplied so that its square root is a channel's factor: [C]."""
    largest = np.zeros(len(maxima))
    for reader in place.readers:
        weight, groups = _constants(reader)[0], _groups(reader)
        if weight.shape[-1] == 1 and groups == len(maxima):
            continue
        rows = np.abs(weight.reshape(groups, weight.shape[0] // groups, -1, weight.shape[-1])).max(axis=2)
        relative = rows / np.maximum(rows.max(axis=2, keepdims=True), np.finfo("float32").tiny)
        largest = np.maximum(largest, relative.max(axis=1).reshape(-1))
    # Only depthwise readers: their factor is the maximum.
    if not largest.any():
        return maxima
    return np.asarray(np.divide(1, largest, where=largest > 0, out=np.zeros_like(largest)))
