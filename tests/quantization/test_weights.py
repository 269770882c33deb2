"""Quantized weights, and multipliers that never overflow."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.spec import weight_spec
from pipeline.quantization.weights import accumulator_bounds, quantize_weights, sum_multipliers
from tests.properties import examples

weights = hnp.arrays("float32", st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.floats(-8, 8, width=32))
scales = st.floats(1e-4, 1e2)


@given(weights, scales, st.booleans(), st.sampled_from([4, 8]))
@examples(100)
def test_weights_come_back_within_half_a_step(weight: np.ndarray, scale: float, per_channel: bool, bits: int) -> None:
    made = quantize_weights(weight, np.zeros(len(weight), "float32"), scale, weight_spec(per_channel, "abs_max", bits))
    assert made.weight.dtype == np.int8
    assert np.abs(made.weight.astype(int)).max(initial=0) <= {4: 7, 8: 127}[bits]
    error = np.abs(made.weight * made.scale[:, None] - weight)
    assert (error <= made.scale[:, None] * 0.5000001).all()


def test_a_small_channel_keeps_its_precision_only_per_channel() -> None:
    weight = np.array([[1.0, -0.6], [0.001, 0.0004]], "float32")
    errors = []
    for per_channel in (True, False):
        made = quantize_weights(weight, np.zeros(2, "float32"), 1.0, weight_spec(per_channel))
        errors.append(np.abs(made.weight[1] * made.scale[1] - weight[1]).max() / 0.001)
    assert errors[0] < 0.005 < 0.5 < errors[1]


@given(weights, st.booleans(), st.sampled_from([4, 8]))
@examples(50)
def test_mse_chooses_the_threshold_with_the_smallest_squared_error(
    weight: np.ndarray, per_channel: bool, bits: int
) -> None:
    rows = weight.astype("float64") if per_channel else weight.reshape(1, -1).astype("float64")
    largest = {4: 7, 8: 127}[bits]

    def errors(scale: np.ndarray) -> np.ndarray:
        return ((np.clip(np.rint(rows / scale[:, None]), -largest, largest) * scale[:, None] - rows) ** 2).sum(axis=1)

    made, plain = (
        quantize_weights(weight, np.zeros(len(weight), "float32"), 1.0, weight_spec(per_channel, algorithm, bits))
        for algorithm in ("mse", "abs_max")
    )
    found = errors(made.scale[: len(rows)])
    for share in np.arange(0.4, 1.001, 0.01):
        assert (found <= errors(plain.scale[: len(rows)] * share) * (1 + 1e-6) + 1e-12 * (rows**2).sum(axis=1)).all()


def test_an_outlier_among_weights_is_clipped_by_mse_alone() -> None:
    weight = np.concatenate([np.random.default_rng(0).normal(size=100_000), [8.0]]).astype("float32")[None]
    bias = np.zeros(1, "float32")
    thresholds = [quantize_weights(weight, bias, 1.0, weight_spec(True, a)).scale[0] * 127 for a in ("abs_max", "mse")]
    assert thresholds[0] == 8
    assert 4 < thresholds[1] < 7


def test_an_all_zero_channel_gets_scale_one() -> None:
    made = quantize_weights(np.zeros((2, 3), "float32"), np.array([0, 5], "float32"), 0.1, weight_spec(True))
    np.testing.assert_array_equal(made.scale, [1, 1])
    np.testing.assert_array_equal(made.bias, [0, 50])


@given(st.floats(1e-30, 1e-3), st.floats(-1e6, 1e6), scales)
@examples(100)
def test_a_bias_always_fits_32_bits(weight: float, bias: float, scale: float) -> None:
    made = quantize_weights(np.full((1, 4), weight, "float32"), np.full(1, bias, "float32"), scale, weight_spec(True))
    assert abs(int(made.bias[0])) <= 2**28
    assert np.isclose(made.bias[0] * made.scale[0] * scale, np.float32(bias), rtol=1e-2, atol=made.scale[0] * scale)


@given(weights, hnp.arrays("uint8", (8, 9)), st.integers(0, 255))
@examples(100)
def test_no_input_exceeds_the_bounds(weight: np.ndarray, values: np.ndarray, zero_point: int) -> None:
    made = quantize_weights(weight, np.ones(len(weight), "float32"), 0.1, weight_spec(True))
    final, on_the_way = accumulator_bounds(made, zero_point)
    x = values[:, : weight.shape[1]].astype(int)
    sums = (x - zero_point) @ made.weight.T.astype(int) + made.bias
    folded = made.bias - zero_point * made.weight.astype(int).sum(axis=1)
    partial = folded + np.cumsum(x[:, :, None] * made.weight.T.astype(int), axis=1)
    assert (np.abs(sums) <= final).all()
    assert (np.abs(partial) <= on_the_way).all()


bytes_of_a_scale = st.builds(QuantizationParameters, scales, st.integers(0, 255))
wide_of_a_scale = st.builds(QuantizationParameters, scales, st.just(0), st.just("int16"))


@given(bytes_of_a_scale, bytes_of_a_scale, scales, st.integers(0, 255), st.integers(0, 255))
@examples(200)
def test_a_sum_is_right_within_rounding_and_fits_32_bits(
    left: QuantizationParameters, right: QuantizationParameters, output_scale: float, a: int, b: int
) -> None:
    (a_scale, a_zero), (b_scale, b_zero) = ((p.scale, p.zero_point) for p in (left, right))
    assume(max(a_scale, b_scale) < output_scale * 2**13)
    a_multiplier, b_multiplier, shift = sum_multipliers(left, right, QuantizationParameters(output_scale, 0))
    assert max(a_multiplier, b_multiplier) < 2**15
    total = (a - a_zero) * a_multiplier + (b - b_zero) * b_multiplier + (1 << (shift - 1))
    assert -(2**31) <= total < 2**31
    exact = ((a - a_zero) * a_scale + (b - b_zero) * b_scale) / output_scale
    assert abs((total >> shift) - exact) <= 0.5 + 255 / 2**shift


@given(wide_of_a_scale, wide_of_a_scale | bytes_of_a_scale, wide_of_a_scale | bytes_of_a_scale, st.data())
@examples(200)
def test_a_sum_of_16_bits_is_right_within_a_step_of_its_largest_value_and_fits_32_bits(
    left: QuantizationParameters, right: QuantizationParameters, output: QuantizationParameters, data: st.DataObject
) -> None:
    largest = left.scale * left.furthest + right.scale * right.furthest
    assume(largest / output.scale < 2**17)
    a, b = (data.draw(st.integers(*p.limits)) - p.zero_point for p in (left, right))
    a_multiplier, b_multiplier, shift = sum_multipliers(left, right, output)
    total = a * a_multiplier + b * b_multiplier + (1 << (shift - 1))
    assert -(2**31) <= total < 2**31
    exact = (a * left.scale + b * right.scale) / output.scale
    assert abs((total >> shift) - exact) <= 0.5 + (left.furthest + right.furthest) / 2 / 2**shift + 1e-9
