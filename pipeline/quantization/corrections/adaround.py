"""Learns whether to round each weight up or down, layer by layer, against what quantized layers before it really give.

Source: M. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020: the rectified
sigmoid, the regularizer that is annealed, Adam, and asymmetric reconstruction. The int8 program runs over some of the
samples, layer by layer, beside the float program: where weights w become q, the error of a layer's sums is q x' - w x,
where x' is what the quantized layer reads, and x what the float one does. The layer's activation isn't part of what is
learned, as in the paper's equation 20. So x and x' count by their second moments alone, and each step takes all
positions into account, not a few that are drawn at random.

It starts where `weight_rounding` has ended, or from the nearest whole numbers: each weight stays as it is, or becomes
the next whole number towards its float value.

A channel's new weights are kept only where the layer's output, activation included, has a smaller squared error on
samples that are held back. The mean error goes into the bias. The largest weights of a channel, which its scale follows
from, stay as large. As in `weight_rounding`, layers with many columns are cut into blocks, each of which is learned by
itself.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline import ops
from pipeline.ir.bridge import operator_of
from pipeline.ir.dataflow import Binding, make_constant, with_arguments
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.corrections.adaptive_rounding import Objective, in_bits, learned_rounding
from pipeline.quantization.corrections.correction import CannotCorrect, Correction
from pipeline.quantization.corrections.kept import kept_needs, walked_feeds
from pipeline.quantization.corrections.layers import Layer, chosen_parameters, int8_layers, with_parameters
from pipeline.quantization.corrections.moments import Columns
from pipeline.quantization.corrections.walk import steps, walk
from pipeline.quantization.realize import realize
from pipeline.quantization.state import State
from pipeline.quantization.statistics import Need
from pipeline.quantization.weights import QuantizedWeights, quantize_weights

WIDTH = 512
"""Columns of a block, at the most."""

POSITIONS, FEWEST_POSITIONS, MEMORY = 256, 32, 16 * 2**20
"""Positions of a batch that are looked at, at the most and at the least, and bytes that what is read there may take."""

BITS = 20
"""Precision of float weights and sums, beside the largest; of up to 512 products of them, sums are exact."""

_log = logging.getLogger(__name__)


class AdaRound(Correction):
    """See the module. Transposed convolutions stay as they are."""

    name = "adaround"
    changes = "weights and biases of int8 convolutions and dense layers, with what quantized layers before them give"

    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return some samples."""
        del annotation
        return kept_needs(program)

    def apply(self, state: State) -> State:
        """See `Correction`."""
        int8_program, _ = realize(state.program, state.annotation, state.calibrated(), warn=False)
        learned_from, held_back = walked_feeds(state)
        learning = _Learning(state, learned_from, held_back)
        try:
            walk(int8_program, [*learned_from, *held_back], learning)
        except NotImplementedError as error:
            raise CannotCorrect(f"it runs operators in NumPy, and one has no NumPy reference: {error}") from error
        return dataclasses.replace(state, program=with_parameters(state.program, learning.parameters))


class _Learning:
    """Learns each layer's weights as the walk over the int8 program comes to it.

    Attributes:
        parameters: weights and biases so far, by name of the layer.
    """

    def __init__(
        self, state: State, learned_from: Sequence[Mapping[str, Array]], held_back: Sequence[Mapping[str, Array]]
    ) -> None:
        self._state = state
        self._layers = int8_layers(state.program, state.annotation)
        self._originals = int8_layers(state.uncorrected, state.annotation)
        self._float_steps = steps(state.uncorrected, [*learned_from, *held_back])
        self._count = len(learned_from)
        self.parameters: dict[str, tuple[Array, Array]] = {}

    def __call__(self, binding: Binding, inputs: Sequence[Array]) -> Binding:
        """Return a binding of the int8 program as it is to be executed, for inputs of all samples."""
        layer, operator = self._layers.get(str(binding.var.name)), operator_of(binding.value)
        if layer is None or not isinstance(operator, ops.QConv2d | ops.QDense):
            return binding
        read = self._state.parameters_of(layer.input)
        step, scale = read.scales_for(layer.image[-1]), read.scales_for(len(layer.bias))
        quantized = [values.astype("float64") - operator.input_zero_point for values in inputs]
        exact = [values.astype("float64") / step for values in self._float_inputs(layer.name)]
        reconstruction = _Reconstruction(self._originals[layer.name], layer, scale)
        pairs = list(zip(quantized, exact, strict=True))
        weight, bias = reconstruction.parameters(pairs[: self._count], pairs[self._count :])
        self.parameters[layer.name] = weight, bias
        changed = quantize_weights(weight, bias, scale, layer.spec)
        x, _, _, multiplier = binding.value.args
        arguments = [x, make_constant(changed.weight), make_constant(changed.bias), multiplier]
        _log.info("adaround: %s, %d of %d layers", layer.name, len(self.parameters), len(self._layers))
        return Binding(binding.var, with_arguments(binding.value, arguments))

    def _float_inputs(self, name: str) -> Sequence[Array]:
        """Return what a layer reads in the float program, for each sample; layers are asked for in order."""
        return next(inputs for binding, inputs in self._float_steps if binding.var.name == name)


class _Reconstruction:
    """One layer, whose output is to be that of the float layer again.

    Sums are in units of a weight's step times the input's.
    """

    def __init__(self, original: Layer, layer: Layer, input_scale: Array) -> None:
        self._layer = layer
        self._input_scale = input_scale
        self._columns = Columns(layer.operator, layer.weight.shape, WIDTH)
        self._rounded: QuantizedWeights = quantize_weights(layer.weight, layer.bias, input_scale, layer.spec)
        step = self._rounded.scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))
        self._exact = in_bits(self._columns.cut(original.weight / step), BITS)
        self._unit = self._rounded.scale * input_scale
        self._bias = original.bias / self._unit

    def parameters(
        self, learned_from: Sequence[tuple[Array, Array]], held_back: Sequence[tuple[Array, Array]]
    ) -> tuple[Array, Array]:
        """Return the layer's weights and bias, [O], float32, changed in those channels in which that is better.

        Args:
            learned_from: for each sample, what the quantized and the float layer read, in steps of the input.
            held_back: the same of other samples.
        """
        objective, centers = self._objective(learned_from)
        start = self._columns.cut(self._rounded.weight.astype("float64"))
        found = learned_rounding(objective, start, self._layer.spec.magnitude_steps)
        biases = [self._bias - self._mean_errors(weight, *centers) for weight in (start, found)]
        before, after = np.zeros(len(self._bias)), np.zeros(len(self._bias))
        for rows, missing in self._rows(held_back):
            wanted = self._limited(self._sums(self._exact @ rows + missing), self._bias)
            for errors, weight, bias in zip((before, after), (start, found), biases, strict=True):
                errors += np.square(self._limited(self._sums(weight @ rows), bias) - wanted).sum(axis=1)
        return chosen_parameters(
            self._layer,
            self._rounded,
            self._columns.joined(found),
            biases[1] * self._unit,
            after < before,
            self._input_scale,
        )

    def _objective(self, pairs: Sequence[tuple[Array, Array]]) -> tuple[Objective, tuple[Array, Array]]:
        """Return the error as a function of the weights, and the means of rows and of what is missing."""
        count, blocks, width = 0, *self._exact.shape[::2]
        sums, missed = np.zeros((blocks, width)), np.zeros(self._exact.shape[:2])
        moments, target = np.zeros((blocks, width, width)), np.zeros(self._exact.shape)
        for rows, missing in self._rows(pairs):
            count += rows.shape[2]
            sums += rows.sum(axis=2)
            missed += missing.sum(axis=2)
            moments += rows @ rows.transpose(0, 2, 1)
            target += missing @ rows.transpose(0, 2, 1)
        mean, missed_mean = sums / count, missed / count
        moments = moments / count - mean[:, :, None] * mean[:, None, :]
        target = target / count - missed_mean[:, :, None] * mean[:, None, :]
        return Objective(self._exact, moments, target), (mean, missed_mean)

    def _rows(self, pairs: Sequence[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
        """Yield what weights are multiplied with, [B,K,P], and by how much w x is more than w x', [B,O,P]."""
        size = 8 * self._columns.groups * self._columns.count
        positions = max(FEWEST_POSITIONS, min(POSITIONS, MEMORY // size))
        for quantized, exact in pairs:
            rows = self._columns.seen(quantized, positions)
            difference = in_bits(self._columns.seen(exact - quantized, positions), BITS)
            yield rows, in_bits(self._exact @ difference, BITS)

    def _sums(self, blocks: Array) -> Array:
        """Return the sums of each channel, [O,P], for those of blocks, [B,O/groups,P]."""
        groups = self._columns.groups
        return np.asarray(blocks.reshape(groups, -1, *blocks.shape[1:]).sum(axis=1).reshape(-1, blocks.shape[2]))

    def _limited(self, sums: Array, bias: Array) -> Array:
        """Return sums with the bias, within the limits of the layer's output."""
        result = sums + bias[:, None]
        for limit, bounded in (
            (self._layer.operator.clip_min, np.maximum),
            (self._layer.operator.clip_max, np.minimum),
        ):
            if limit is not None:
                result = bounded(result, (limit / self._unit)[:, None])
        return np.asarray(result)

    def _mean_errors(self, weight: Array, mean: Array, missed: Array) -> Array:
        """Return the mean error of each channel's sums: [O]."""
        errors = ((weight - self._exact) * mean[:, None, :]).sum(axis=2) - missed
        return self._sums(errors[:, :, None])[:, 0]
