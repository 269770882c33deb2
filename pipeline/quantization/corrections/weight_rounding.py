"""Rounds weights so that the errors of those that are multiplied with similar values cancel out.

Source: E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
for convolutions and dense layers alike, as in its predecessor: E. Frantar and D. Alistarh, "Optimal Brain Compression",
2022. Where weights w become q, the squared error of a layer's sums is (w - q)' H (w - q) with H the second moments of
what they are multiplied with. The weights of a channel are rounded one after another, those with the largest moments
first, and after each the ones that are left move by what makes up best for its error. J. Chen et al., "The Geometry of
LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm", 2025, says how that follows from one factorization of H:
with H = L D L' and L unit lower triangular, weight i is rounded from w_i + sum over j > i of L_ji (w_j - q_j).

The mean error goes into the bias, so H is taken about the mean. A channel's new weights are kept only where their error
is smaller with the moments of held-back samples. The largest weights of a channel, which its scale follows from, stay
as large. Layers with more columns than moments are kept for are cut into blocks, each of which is rounded by itself.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.compiler.calibration_loops import round_in_order, unit_lower_factor
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.corrections.correction import Correction
from pipeline.quantization.corrections.layers import Layer, chosen_parameters, int8_layers, with_parameters
from pipeline.quantization.corrections.moments import Columns, Moments, SecondMoments
from pipeline.quantization.state import State
from pipeline.quantization.statistics import Need
from pipeline.quantization.weights import quantize_weights

WIDEST, NARROWEST = 512, 32
"""Columns of a block, at the most, and where memory doesn't allow for more."""

MEMORY = 96 * 2**20
"""Bytes that the moments of all layers may take."""

DAMPING = 0.01
"""Share of the mean second moment that is added to all of them, as in the paper."""


class WeightRounding(Correction):
    """See the module. Transposed convolutions stay as they are."""

    name = "weight_rounding"
    changes = "weights and biases of int8 convolutions and dense layers"

    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return the second moments of all int8 layers' columns."""
        return tuple(_needs(int8_layers(program, annotation)).values())

    def apply(self, state: State) -> State:
        """See `Correction`."""
        layers = int8_layers(state.uncorrected, state.annotation)
        rounded = {}
        for name, need in _needs(layers).items():
            seen = state.statistics[need]
            if not isinstance(seen, SecondMoments):
                raise TypeError(f"Expected the moments of {name}, got {seen}")
            layer = layers[name]
            parameters = state.parameters_of(layer.input)
            scales = parameters.scales_for(len(layer.bias))
            rounded[name] = _rounded(layer, need.arguments[0], seen, scales)
        return dataclasses.replace(state, program=with_parameters(state.program, rounded))


def _needs(layers: dict[str, Layer]) -> dict[str, Need]:
    """Return the moments that each layer needs, in blocks so wide that they fit in memory together."""
    width = WIDEST
    while True:
        columns = {name: Columns(layer.operator, layer.weight.shape, width) for name, layer in layers.items()}
        # Moments of batches to learn from and of others, in float64.
        size = sum(2 * 8 * c.groups * c.blocks * c.block_width**2 for c in columns.values())
        if size <= MEMORY or width <= NARROWEST:
            return {name: Need(layers[name].input, SecondMoments, (c,)) for name, c in columns.items()}
        width //= 2


def _rounded(layer: Layer, columns: Columns, seen: SecondMoments, input_scale: Array) -> tuple[Array, Array]:
    """Return a layer's weights, each a multiple of its channel's scale, and its bias."""
    nearest = quantize_weights(layer.weight, layer.bias, input_scale, layer.spec)
    step = nearest.scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    exact = columns.cut(layer.weight / step)
    center = seen.learned_from.means
    found = round_with_moments(exact, seen.learned_from.about(center), layer.spec.magnitude_steps)
    errors = columns.cut(nearest.weight) - exact, found - exact
    better = np.less(*(_squared_errors(e, seen.held_back, center, columns.groups) for e in reversed(errors)))
    shift = np.einsum("bok,bk->bo", errors[1], center).reshape(columns.groups, columns.blocks, -1).sum(axis=1)
    bias = layer.bias - shift.reshape(-1) * nearest.scale
    return chosen_parameters(layer, nearest, columns.joined(found), bias, better, input_scale)


def _squared_errors(errors: Array, moments: Moments, center: Array, groups: int) -> Array:
    """Return the mean squared error of each channel's sums, besides its mean: [O].

    Args:
        errors: of the weights: [B,O/groups,K].
        moments: of what they are multiplied with.
        center: of the columns, [B,K], from which the mean is taken.
        groups: of channels.
    """
    summed = ((errors @ moments.about(center)) * errors).sum(axis=2)
    return np.asarray(summed.reshape(groups, -1, summed.shape[1]).sum(axis=1).reshape(-1))


def round_with_moments(weight: Array, moments: Array, largest: int = 127) -> Array:
    """Return weights rounded one after another, each making up for those before it; see the module.

    Args:
        weight: [B,O,K] float64 in steps of their scale; those beyond `largest` - 0.5 are rounded to the nearest.
        moments: [B,K,K] float64, symmetric: of what each K weights are multiplied with.
        largest: magnitude of a quantized weight.

    Returns:
        [B,O,K] float64: whole numbers in [-largest, largest].
    """
    count = moments.shape[1]
    diagonal = np.einsum("bkk->bk", moments)
    damping = DAMPING * diagonal.mean(axis=1, keepdims=True)
    # The last is rounded first. Columns that are always zero come last, and nothing makes up for them.
    order = np.argsort(diagonal, axis=1, kind="stable")
    sorted_moments = np.take_along_axis(moments, order[:, :, None], axis=1)
    sorted_moments = np.take_along_axis(sorted_moments, order[:, None, :], axis=2)
    sorted_moments[:, range(count), range(count)] += np.where(damping > 0, damping, 1)
    lower = unit_lower_factor(sorted_moments)
    exact = np.take_along_axis(weight, order[:, None, :], axis=2)
    result = np.empty_like(exact)
    np.put_along_axis(result, order[:, None, :], round_in_order(exact, lower, largest), axis=2)
    return result
