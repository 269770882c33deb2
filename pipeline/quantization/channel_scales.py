"""Scales for each channel of an activation, where that costs nothing.

Operators with weights multiply the sums of each output channel with a number of its own anyway, in which a scale of
their result's channel has room. What reads it has to keep channels apart: a depthwise convolution, whose numbers take
the scale of the channel that they belong to. So a tensor that only depthwise convolutions read, computed by a layer
with weights, can have a scale for each channel, and quiet channels aren't lost beside loud ones. It has one zero point,
which is also what a convolution pads with.

The layer's sums may go through a hard-swish, which is computed before they are rounded to 8 bits.

A channel's scale spreads over what was seen of it and half as much again (`HEADROOM`), but never beyond the range that
the calibration algorithm has chosen for the whole tensor, of which a channel that was seen to be nearly zero keeps a
small part (`SMALLEST_SHARE`). A fused limit such as that of a ReLU6 is the range's end then, or beyond it, so that
saturation at 255 applies it.

Source: M. Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 2.2.2, which names why
activations have no scales per channel elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.errors import TableError
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.rules import HardSwish, kind_of
from pipeline.quantization.spec import QuantizationSpec
from pipeline.quantization.statistics import ChannelRanges, Need, Statistic
from pipeline.quantization.table import Calibrated, CalibrationTable

_log = logging.getLogger(__name__)

HEADROOM = 1.5
"""By what the range that was seen of a channel is multiplied: a channel's differs more from sample to sample than that
of the whole tensor."""

SMALLEST_SHARE = 2.0**-8
"""Of the tensor's range, what a channel keeps at the least: it may be louder in samples that weren't seen."""


@dataclass(frozen=True)
class Place:
    """A tensor whose channels can have a scale each.

    Attributes:
        tensor: its name.
        producer: the operator that computes it.
        readers: the depthwise convolutions that read it, or a hard-swish behind it, and nobody else does.
    """

    tensor: str
    producer: Binding
    readers: tuple[Binding, ...]

    @property
    def need(self) -> Need:
        """What has to be known of it."""
        return Need(self.tensor, ChannelRanges)

    @property
    def channels(self) -> int:
        """How many it has."""
        return int(tensor_type(self.producer.var).shape[-1])


def places(program: Program, annotation: Annotation) -> dict[str, Place]:
    """Return the 8-bit tensors whose channels can have a scale each, by name, in order of execution."""
    flow = Dataflow.of(program.module)
    int8 = {o.name for o in annotation.operators if o.precision == "int8"}
    specs = {t.name: t.spec for t in annotation.tensors}
    bytes_alone = {n for n, s in specs.items() if s is not None and s.dtype == "uint8"} - {
        t.shares for t in annotation.tensors
    }
    found: dict[str, Place] = {}
    for binding in flow.bindings:
        name, readers = str(binding.var.name), flow.users[binding.var]
        own = name in bytes_alone and binding.var not in flow.outputs
        if not own or not readers or {name, *(str(r.var.name) for r in readers)} - int8:
            continue
        spec = specs[name]
        if spec is not None and all(_keeps_apart(r, binding) for r in readers) and _computes(binding, spec, specs):
            found[name] = Place(name, binding, readers)
    return found


def _computes(binding: Binding, spec: QuantizationSpec, specs: Mapping[str, QuantizationSpec | None]) -> bool:
    """Return whether an operator's result can have scales per channel, all with the same limits."""
    if HardSwish.of(binding) is not None:
        return str(binding.value.args[0].name) not in specs
    operator = operator_of(binding.value)
    if not isinstance(operator, ops.Linear) or constant(binding.value.args[1]) is None:
        return False
    return operator.clip_min in (None, 0) and (operator.clip_max is None or not spec.signed)


def _keeps_apart(reader: Binding, producer: Binding) -> bool:
    return kind_of(reader) == "depthwise_conv2d" and bool(reader.value.args[0].same_as(producer.var))


def choose(place: Place, entry: Calibrated, seen: Statistic) -> Calibrated:
    """Return a tensor's entry of the calibration table with a scale for each channel.

    The zero point of a tensor that can be negative is the one with the smallest squared error behind its readers, all
    channels' steps weighted with the squares of what they are multiplied with.

    Args:
        place: the tensor.
        entry: with one scale, as the calibration algorithm has chosen it.
        seen: what `Place.need` names.
    """
    if not isinstance(seen, ChannelRanges):
        raise TypeError(f"Expected the ranges of the channels of {place.tensor}, got {seen}")
    # Its steps reach half a step further than the values that they stand for.
    halves = 0.5 if entry.zero_point else 0, 0 if _limited(place.producer) else 0.5
    lowest, highest = -(entry.zero_point + halves[0]) * entry.scale, (255 - entry.zero_point + halves[1]) * entry.scale
    lows = np.broadcast_to(np.clip(seen.minima * HEADROOM, lowest, 0), place.channels)
    highs = np.broadcast_to(np.clip(seen.maxima * HEADROOM, 0, highest), place.channels)
    # What never was anything but zero says nothing of what it may be.
    dead = (lows == 0) & (highs == 0)
    lows, highs = np.where(dead, lowest, lows), np.where(dead, highest, highs)
    candidates = np.arange(1, 255)[:, None] if entry.signed else np.zeros((1, 1), "int64")
    scales = np.maximum(highs / (255 - candidates), -lows / np.maximum(candidates, 1))
    scales = np.maximum(scales, entry.scale * SMALLEST_SHARE)
    best = int(np.argmin((scales**2 * _powers(place)).sum(axis=1)))
    chosen = tuple(float(s) for s in scales[best].astype("float32"))
    zero_point = int(candidates[best, 0])
    return msgspec.structs.replace(entry, scale=max(chosen), zero_point=zero_point, channel_scales=chosen)


def _limited(producer: Binding) -> bool:
    operator = operator_of(producer.value)
    return isinstance(operator, ops.Linear) and operator.clip_max is not None


def _powers(place: Place) -> Array:
    """Return the squares of the weights that each channel is multiplied with, added up: [C] float64."""
    powers = np.zeros(place.channels)
    for reader in place.readers:
        weight = constant(reader.value.args[1])
        if weight is None:
            raise TypeError(f"{reader.var.name} has no constant weights")
        powers += np.square(weight.astype("float64")).reshape(place.channels, -1).sum(axis=1)
    # All may be zero, and then nothing counts.
    return powers if powers.any() else np.ones(place.channels)


def multiplied(builder: DataflowBuilder, value: relax.Var, factors: Array, name: str) -> relax.Var:
    """Emit a product of a float tensor's channels with `QuantizationParameters.factors`, or with what undoes it.

    Args:
        builder: what to emit it with.
        value: the tensor [...,C] float32.
        factors: [C]; of none, nothing is emitted.
        name: of the tensor that has the scales.
    """
    if not factors.size:
        return value
    return builder.emit(relax.op.multiply(value, make_constant(factors.astype("float32"))), f"{name}.scaled")


def with_channel_scales(annotation: Annotation, names: Sequence[str]) -> Annotation:
    """Return an annotation that says of these tensors that each of their channels has a scale."""
    tensors = tuple(
        msgspec.structs.replace(t, spec=msgspec.structs.replace(t.spec, granularity="per_channel"))
        if t.name in names and t.spec is not None
        else t
        for t in annotation.tensors
    )
    return msgspec.structs.replace(annotation, tensors=tensors)


def tensors_with_channel_scales(annotation: Annotation) -> tuple[str, ...]:
    """Return the tensors of which an annotation says that each of their channels has a scale."""
    return tuple(t.name for t in annotation.calibrated() if t.spec is not None and t.spec.granularity == "per_channel")


def annotated_places(program: Program, annotation: Annotation) -> tuple[Place, ...]:
    """Return the tensors of which an annotation says that each of their channels has a scale.

    Raises:
        TableError: one of them isn't a tensor that can have that.
    """
    known, found = places(program, annotation), tensors_with_channel_scales(annotation)
    for name in found:
        if name not in known:
            raise TableError(
                f"Annotation: tensor {name!r} can't have a scale for each channel. That is possible only where an int8 "
                "layer with weights computes a tensor, limited at most by a ReLU or from above to what is at least 0, "
                "and only int8 depthwise convolutions read it."
            )
    return tuple(known[name] for name in found)


def agreed(program: Program, annotation: Annotation, table: CalibrationTable) -> tuple[Annotation, CalibrationTable]:
    """Return an annotation and a given table that say the same of scales per channel.

    What the table says holds, unless a tensor isn't one that can have scales per channel with this annotation; it has
    its largest scale then.
    """
    scaled = {name for name, entry in table.tensors.items() if entry.parameters.channel_scales}
    if not scaled:
        return annotation, table
    possible = scaled & set(places(program, annotation))
    for name in sorted(scaled - possible):
        _log.warning(
            "Tensor %r has one scale, the largest of its channel_scales in the calibration table: with these options, "
            "it isn't one that a layer with weights computes and only depthwise convolutions read, all in int8.",
            name,
        )
    entries = {
        name: msgspec.structs.replace(entry, channel_scales=()) if name in scaled - possible else entry
        for name, entry in table.tensors.items()
    }
    return with_channel_scales(annotation, sorted(possible)), msgspec.structs.replace(table, tensors=entries)


def check(program: Program, annotation: Annotation, table: CalibrationTable) -> None:
    """Refuse scales per channel that don't fit the program.

    Raises:
        TableError: they are those of a tensor that can't have them, or of another number of channels; or the annotation
            says another thing than the table.
    """
    for place in annotated_places(program, annotation):
        entry = table.tensors.get(place.tensor)
        if entry is None:
            continue
        scales = entry.parameters.channel_scales
        if not scales:
            raise TableError(
                f"The calibration table has one scale for tensor {place.tensor!r}, which the annotation wants to have "
                "one for each channel. Calibrate again with this annotation."
            )
        if len(scales) != place.channels:
            raise TableError(
                f"The calibration table has {len(scales)} channel_scales for tensor {place.tensor!r}, which has "
                f"{place.channels} channels."
            )
        limits = operator_of(place.producer.value)
        if isinstance(limits, ops.Linear):
            _check_limits(place.tensor, limits, entry)
    for name, entry in table.tensors.items():
        if entry.parameters.channel_scales and name not in tensors_with_channel_scales(annotation):
            raise TableError(
                f"The calibration table has a scale for each channel of tensor {name!r}, which the annotation wants to "
                "have one. Calibrate again with this annotation."
            )


def _check_limits(name: str, operator: ops.Linear, entry: Calibrated) -> None:
    """Refuse scales with which a fused limit would be another quantized value in each channel."""
    limits = {
        QuantizationParameters(s, entry.zero_point).quantized_range(operator.clip_min, operator.clip_max)
        for s in entry.parameters.channel_scales
    }
    if len(limits) > 1 and operator.clip_max is not None:
        raise TableError(
            f"The calibration table: tensor {name!r} is limited to {operator.clip_max:g}, which is within the range of "
            f"some of its channel_scales. They may be {operator.clip_max / (255 - entry.zero_point):.4g} at the most."
        )
