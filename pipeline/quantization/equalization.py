"""Evens out the channels of a tensor, so that one scale fits them all: wide ones become narrower, narrow ones wider.

Sources: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.1 (cross-layer equalization); G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models", 2022, for layers behind a normalization. Where a layer computes a tensor and only layers
with constant weights read it, dividing the tensor's channel c by f_c in the one, and multiplying what the others
multiply it with by f_c, leaves the function as it is. A rectifier between them allows that, as max(x / f, 0) is
max(x, 0) / f; any other limit doesn't. A normalization (a layer normalization, or any product with a constant for each
channel, as the last one of a root mean square normalization) computes in float; what else reads its result in float,
as residual sums do, gets it multiplied by f_c again, which is part of that operator's loop.

SmoothQuant's factors f_c = max |x_c|^a / max |w_c|^(1 - a) share a channel's width between the tensor and the weights,
here relative to what each of the weights' channels has for its largest. Of several a, the one with the smallest
expected error of the readers' sums is taken. Where all readers are depthwise, whose weights have a scale for each
channel anyway, f_c is max |x_c|, and the tensor's channels become equally wide for nothing.

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
from pipeline.quantization.statistics import ChannelMaxima, ChannelPowers, Need, Statistic

SHARES = np.arange(11) / 10
"""Of a channel's width that the weights take over (SmoothQuant's alpha); that of the smallest expected error is taken.
"""

WORTH = 0.8
"""The expected error has to fall to this share, about 1 dB, or a tensor stays as it is: the model is calibrated twice
where any doesn't."""

LARGEST_EXPONENT = 8
"""Factors are at most 2 to this power apart from one, so that dead channels don't become loud ones."""


@dataclass(frozen=True)
class Place:
    """A tensor whose channels can be evened out.

    Attributes:
        tensor: its name.
        producer: the operator that computes it.
        readers: the layers that read it with its channels divided.
        others: whether anything else reads it, as it was: in float.
    """

    tensor: str
    producer: Binding
    readers: tuple[Binding, ...]
    others: bool = False

    @property
    def normalized(self) -> bool:
        """Whether it is a normalization's result."""
        return not isinstance(operator_of(self.producer.value), ops.Linear)


def places(program: Program, annotation: Annotation) -> tuple[Place, ...]:
    """Return the tensors whose channels can be evened out, and that are 8-bit, with their own scale."""
    flow = Dataflow.of(program.module)
    int8 = {o.name for o in annotation.operators if o.precision == "int8"}
    scaled = {t.name for t in annotation.calibrated()}
    shared = {t.shares for t in annotation.tensors}
    found = []
    for binding in flow.bindings:
        name = str(binding.var.name)
        if name not in scaled or name in shared or not _scales(binding):
            continue
        quantized = [u for u in flow.users[binding.var] if u.var.name in int8]
        others = len(quantized) < len(flow.users[binding.var]) or binding.var in flow.outputs
        if quantized and all(_reads(r, binding) for r in quantized) and not (others and name in int8):
            found.append(Place(name, binding, tuple(quantized), others))
    return tuple(found)


def needs(program: Program, annotation: Annotation, everywhere: bool = True) -> tuple[Need, ...]:
    """Return what has to be known of the tensors that can be evened out, or only of those behind normalizations."""
    chosen = [p for p in places(program, annotation) if everywhere or p.normalized]
    return tuple(Need(p.tensor, s) for p in chosen for s in (ChannelMaxima, ChannelPowers))


def choose_exponents(
    program: Program, annotation: Annotation, statistics: Mapping[Need, Statistic]
) -> dict[str, tuple[int, ...]]:
    """Return the exponent of each channel's factor, for each tensor that has others than zero.

    Args:
        program: the float program.
        annotation: what becomes int8.
        statistics: what `needs` has asked for; of other tensors, nothing is evened out.
    """
    chosen = {}
    for place in places(program, annotation):
        seen = seen_of_channels(statistics, place.tensor)
        exponents = () if seen is None else _exponents(place, *seen)
        if any(exponents):
            chosen[place.tensor] = exponents
    return chosen


def seen_of_channels(statistics: Mapping[Need, Statistic], tensor: str) -> tuple[Array, Array] | None:
    """Return the largest magnitude and the mean square of each channel of a tensor; None if nobody asked for them."""
    if Need(tensor, ChannelMaxima) not in statistics:
        return None
    maxima, powers = (statistics[Need(tensor, s)] for s in (ChannelMaxima, ChannelPowers))
    if not isinstance(maxima, ChannelMaxima) or not isinstance(powers, ChannelPowers):
        raise TypeError(f"Expected the maxima and powers of {tensor}, got {maxima} and {powers}")
    return maxima.maxima, powers.means


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

    others = {place.producer.var for place in known.values() if place.others}
    layers_read: dict[relax.Var, relax.Expr] = {}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        own, call = binding.var, with_arguments(binding.value, list(map(builder.replaced, binding.value.args)))
        if own in multiplied:
            weight, bias = constants_of(binding)
            read = binding.value.args[0]
            constants = map(make_constant, (_with_columns(binding, weight, multiplied[own]), bias))
            call = with_arguments(call, [layers_read.get(read, call.args[0]), *constants])
        if own not in divided:
            return call if own in multiplied else None
        call = _divided(call, divided[own])
        if own not in others:
            return call
        layers_read[own] = builder.emit(call, str(own.name))
        factors = np.ldexp(np.float32(1), divided[own])
        return builder.emit(relax.op.multiply(layers_read[own], make_constant(factors)), f"{own.name}.restored")

    return dataclasses.replace(program, module=rewrite_bindings(program.module, visit))


def _divided(call: relax.Call, exponents: Array) -> relax.Call:
    """Return a call with constants such that its result's channels are divided by powers of two."""

    def divided(argument: relax.Expr) -> relax.Expr:
        value = constant(argument)
        if value is None:
            return argument
        # Weights [O,...] have the channels in front; all other constants have them last.
        channels_first = argument.same_as(call.args[1]) and isinstance(operator_of(call), ops.Linear)
        shape = (-1, *(1,) * (value.ndim - 1)) if channels_first else (-1,)
        return make_constant(np.ldexp(value, -exponents.reshape(shape)))

    return with_arguments(call, [divided(argument) for argument in call.args])


def _scales(binding: Binding) -> bool:
    """Return whether dividing an operator's constants by factors of its channels divides its result by them."""
    operator = operator_of(binding.value)
    if binding.operator == "relax.multiply":
        return any(constant(a) is not None for a in binding.value.args)
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


def constants_of(binding: Binding) -> tuple[Array, Array]:
    """Return a layer's weights and bias, or a normalization's scale and bias."""
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


def _exponents(place: Place, maxima: Array, powers: Array) -> tuple[int, ...]:
    """Return a channel's exponents for the largest magnitudes and mean squares that were seen of it, [C] each."""
    readers = [_grouped(reader) for reader in place.readers]
    if all(weight.shape[1] == 1 for weight in readers):
        return _rounded(np.log2(maxima, where=maxima > 0, out=np.full(len(maxima), -np.inf)))
    largest = np.zeros(len(maxima))
    for weight in readers:
        if weight.shape[1] > 1:
            rows = np.abs(weight).max(axis=3)
            relative = rows / np.maximum(rows.max(axis=1, keepdims=True), np.finfo("float32").tiny)
            largest = np.maximum(largest, relative.max(axis=2).reshape(-1))
    alive = (maxima > 0) & (largest > 0)
    wide, narrow = (np.log2(v) for v in (np.where(alive, maxima, 1), 1 / np.where(alive, largest, 1)))
    shared = [_rounded(np.where(alive, a * wide + (1 - a) * narrow, -np.inf)) for a in SHARES]
    candidates = [(0,) * len(maxima), *shared]
    errors = [sum(relative_error(weight, maxima, powers, 2.0 ** np.array(c)) for weight in readers) for c in candidates]
    best = int(np.argmin(errors))
    return candidates[best if errors[best] <= WORTH * errors[0] else 0]


def _rounded(logarithms: Array) -> tuple[int, ...]:
    """Return exponents in relation to the largest; zeros where logarithms are minus infinity."""
    alive = np.isfinite(logarithms)
    relative = np.rint(logarithms - logarithms.max(where=alive, initial=-np.inf)) if alive.any() else logarithms
    return tuple(int(e) for e in np.where(alive, np.maximum(relative, -LARGEST_EXPONENT), 0))


def relative_error(weight: Array, maxima: Array, powers: Array, factors: Array) -> float:
    """Return the noise that a layer's sums can be expected to have, to their power; see `expected_noise`."""
    power = (weight**2 * powers.reshape(weight.shape[0], -1, 1, 1)).sum()
    return expected_noise(weight, maxima, powers, factors) / max(float(power), float(np.finfo("float64").tiny))


def expected_noise(weight: Array, maxima: Array, powers: Array, factors: Array) -> float:
    """Return the squared error of a layer's sums, all channels', that its 8-bit input and weights are expected to make.

    Rounding errors count as evenly spread over a step, and independent of one another.

    Args:
        weight: [G,C/G,O/G,K], those of each input channel side by side.
        maxima: the largest magnitudes of the input's channels [C].
        powers: their mean squares [C].
        factors: by which they are divided, while the weights are multiplied with them [C].
    """
    weight, (powers, factors) = weight**2, (v.reshape(weight.shape[0], -1, 1, 1) for v in (powers, factors))
    input_step = 2 * (maxima / factors.reshape(-1)).max() / 255
    weight_steps = (weight * factors**2).max(axis=(1, 3), keepdims=True) / 127**2
    of_input = (weight * factors**2).sum() * input_step**2
    of_weights = (weight_steps * powers / factors**2).sum() * weight.shape[3]
    return float((of_input + of_weights) / 12)


def _grouped(reader: Binding) -> Array:
    """Return a layer's weights [O,...,C/G] as [G,C/G,O/G,K], float64: those of each input channel side by side."""
    weight, groups = constants_of(reader)[0].astype("float64"), _groups(reader)
    grouped = weight.reshape(groups, weight.shape[0] // groups, -1, weight.shape[-1])
    return np.asarray(grouped.transpose(0, 3, 1, 2))
