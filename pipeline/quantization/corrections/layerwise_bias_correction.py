"""Moves biases by the mean error that each layer's output really has, layer by layer.

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.2, and its empirical variant in M. Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 3.2;
AIMET calls it empirical bias correction, NNCF (not fast) bias correction. The int8 program runs over some of the
samples, layer by layer, all samples of a layer before the next: what a layer reads are its quantized and already
corrected predecessors' real outputs x'. With the float program's x for the same samples, the mean error of the layer's
sums is W' mean(x') - W mean(x); it is taken from the bias. Clipped, rounded and shifted activations count as much as
rounded weights.

A layer's correction is kept only where it makes the mean error smaller on samples that are held back, too. The mean of
each channel stands for it at all pixels; zeros that a convolution pads count as zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pipeline import ops
from pipeline.ir.bridge import operator_of
from pipeline.ir.dataflow import Binding, constant, make_constant, with_arguments
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.corrections.correction import CannotCorrect, Correction
from pipeline.quantization.corrections.kept import kept_limits, kept_needs, walked, walked_feeds
from pipeline.quantization.corrections.layers import Layer, int8_layers, with_biases
from pipeline.quantization.corrections.walk import walk
from pipeline.quantization.realize import realize
from pipeline.quantization.state import State
from pipeline.quantization.statistics import KeptMeans, Need, batch_means
from pipeline.quantization.weights import quantize_weights


class LayerwiseBiasCorrection(Correction):
    """See the module. Convolutions and dense layers are corrected; transposed convolutions stay as they are."""

    name = "layerwise_bias_correction"
    changes = "biases of int8 convolutions and dense layers, with what quantized layers before them give"

    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return some samples, and the channels' means that the inputs of int8 layers have for each of them."""
        layers, limits = int8_layers(program, annotation).values(), kept_limits(program)
        means = dict.fromkeys(Need(layer.input, KeptMeans, limits) for layer in layers)
        return (*kept_needs(program), *means)

    def apply(self, state: State) -> State:
        """See `Correction`."""
        int8_program, _ = realize(state.program, state.annotation, state.calibrated(), warn=False)
        correcting = _Correcting(state)
        learned_from, held_back = walked_feeds(state)
        try:
            walk(int8_program, [*learned_from, *held_back], correcting)
        except NotImplementedError as error:
            raise CannotCorrect(f"it runs operators in NumPy, and one has no NumPy reference: {error}") from error
        return dataclasses.replace(state, program=with_biases(state.program, correcting.biases))


class _Correcting:
    """Corrects each layer as the walk comes to it.

    Attributes:
        biases: the corrected ones so far, by name of the layer: [O] float64.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._layers = int8_layers(state.program, state.annotation)
        self._originals = int8_layers(state.uncorrected, state.annotation)
        self._limits = kept_limits(state.uncorrected)
        self.biases: dict[str, Array] = {}

    def __call__(self, binding: Binding, inputs: Sequence[Array]) -> Binding:
        """Return a binding of the int8 program as it is to be executed, for inputs of all samples."""
        layer, operator = self._layers.get(str(binding.var.name)), operator_of(binding.value)
        if layer is None or not isinstance(operator, ops.QConv2d | ops.QDense):
            return binding
        x, weight, _, multiplier = binding.value.args
        rounded = constant(weight)
        if rounded is None:
            raise TypeError(f"{binding.var.name} has no constant weights")
        parameters = self._state.parameters_of(layer.input)
        step, scale = parameters.scales_for(layer.image[-1]), parameters.scales_for(len(layer.bias))
        means = [step * (batch_means(values) - operator.input_zero_point) for values in inputs]
        corrected = self._corrected(layer, scale, means)
        if corrected is None:
            return binding
        quantized = quantize_weights(layer.weight, corrected, scale, layer.spec)
        if not np.array_equal(quantized.weight, rounded):
            # A bias this large would change the scale of the weights.
            return binding
        self.biases[layer.name] = corrected
        arguments = [x, weight, make_constant(quantized.bias), multiplier]
        return Binding(binding.var, with_arguments(binding.value, arguments))

    def _corrected(self, layer: Layer, scale: Array, means: Sequence[Array]) -> Array | None:
        """Return a layer's corrected bias, [O] float32; None if the held-back samples say that it is none the better.

        Args:
            layer: as corrections before have left it.
            scale: of its input, for each output channel: [O].
            means: of its quantized input's channels, for each sample: those to learn from, then those held back.
        """
        seen = self._state.statistics[Need(layer.input, KeptMeans, self._limits)]
        if not isinstance(seen, KeptMeans):
            raise TypeError(f"Expected the means of {layer.input}, got {seen}")
        original, count = self._originals[layer.name], len(seen.learned_from)
        weight = quantize_weights(layer.weight, layer.bias, scale, layer.spec).values()

        def shift(expected: Sequence[Array], found: Sequence[Array]) -> Array:
            wanted = original.mean_response(original.weight.astype("float64"), np.mean(expected, axis=0))
            return layer.mean_response(weight, np.mean(found, axis=0)) - wanted

        held_back = walked(seen.held_back, count)
        learned, checked = shift(seen.learned_from, means[:count]), shift(held_back, means[count:])
        already = original.bias.astype("float64") - layer.bias
        if np.square(checked - learned).sum() >= np.square(checked - already).sum():
            return None
        return np.asarray(original.bias - learned, "float32")
