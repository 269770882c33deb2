"""Subtracts from biases the mean error that quantized weights cause.

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.2, with means of real samples; NNCF's fast bias correction and PaddleSlim's `bias_correction` use the same idea. If a
layer's weights W become W', its output is wrong by (W' - W) x. The mean of that error, (W' - W) times the mean of x, is
subtracted from the bias. x at every pixel is approximated by the mean of its channel; padding counts as zeros.
"""

from __future__ import annotations

import dataclasses

from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.corrections.correction import Correction
from pipeline.quantization.corrections.layers import int8_layers, with_biases
from pipeline.quantization.state import State
from pipeline.quantization.statistics import ChannelMeans, Need
from pipeline.quantization.weights import quantize_weights


class BiasCorrection(Correction):
    """See the module's docstring. Convolutions and dense layers are corrected, transposed convolutions aren't."""

    name = "bias_correction"
    changes = "biases of int8 convolutions and dense layers"

    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return the channels' means of all inputs of int8 layers."""
        inputs = (layer.input for layer in int8_layers(program, annotation).values())
        return tuple(dict.fromkeys(Need(name, ChannelMeans) for name in inputs))

    def apply(self, state: State) -> State:
        """See `Correction`."""
        corrected = {}
        originals = int8_layers(state.uncorrected, state.annotation)
        for name, layer in int8_layers(state.program, state.annotation).items():
            original, seen = originals[name], state.statistics[Need(layer.input, ChannelMeans)]
            if not isinstance(seen, ChannelMeans):
                raise TypeError(f"Expected the means of {layer.input}, got {seen}")
            parameters = state.parameters_of(layer.input)
            quantized = quantize_weights(layer.weight, layer.bias, parameters.scales_for(len(layer.bias)), layer.spec)
            error = quantized.values()
            error -= original.weight
            corrected[name] = original.bias - original.mean_response(error, seen.means)
        return dataclasses.replace(state, program=with_biases(state.program, corrected))
