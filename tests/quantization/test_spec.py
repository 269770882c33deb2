"""A range of values becomes a scale and a zero point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quantization.spec import ObserverSpec, QuantizationSpec, ScaleTooLargeError, clip, spread, weight_spec
from tests.properties import examples

ranges = st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)).map(sorted)


@given(ranges, st.floats(0.01, 1), st.booleans(), st.booleans())
@examples(200)
def test_zero_is_exact_and_quantized_values_cover_what_is_not_clipped(
    limits: list[float], kept: float, signed: bool, symmetric: bool
) -> None:
    low, high = limits if signed else (abs(v) for v in limits)
    low, high = min(low, high), max(low, high)
    threshold = kept * max(abs(low), abs(high))
    parameters = clip(low, high, threshold, QuantizationSpec(signed=signed, symmetric=symmetric)).parameters
    assert 0 <= parameters.zero_point <= 255
    smallest, largest = parameters.all_values()[[0, 255]]
    step = parameters.scale * 1.001
    assert smallest <= max(low, -threshold, -1e30) + step or low > 0
    assert largest >= min(high, threshold) - step


def test_an_unsigned_tensor_uses_all_steps_from_zero() -> None:
    parameters = spread(0.2, 5.1, QuantizationSpec(signed=False)).parameters
    assert (parameters.zero_point, parameters.scale) == (0, np.float32(5.1 / 255))


def test_a_symmetric_tensor_has_its_zero_in_the_middle() -> None:
    parameters = spread(-1.0, 2.54, QuantizationSpec(symmetric=True)).parameters
    assert (parameters.zero_point, parameters.scale) == (128, np.float32(2.54 / 127))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("limits", [(0.0, 0.0), (np.inf, -np.inf)], ids=["zero", "no elements"])
def test_a_tensor_that_is_always_zero_gets_scale_one(limits: tuple[float, float], symmetric: bool) -> None:
    choice = clip(*limits, 0.0, QuantizationSpec(symmetric=symmetric))
    assert (choice.parameters.zero_point, choice.parameters.scale) == (128 if symmetric else 0, 1.0)
    assert str(choice.threshold) == "0.0"


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-31, 1e-29])
def test_a_tensor_that_is_nearly_zero_gets_the_smallest_scale(magnitude: float, symmetric: bool) -> None:
    parameters = spread(-magnitude, magnitude, QuantizationSpec(symmetric=symmetric)).parameters
    assert 1e-30 < parameters.scale <= np.float32(1.001e-30)
    exact = np.array([-magnitude, 0.0, magnitude])
    quantized = np.clip(np.round(exact / parameters.scale) + parameters.zero_point, 0, 255)
    np.testing.assert_allclose((quantized - parameters.zero_point) * parameters.scale, exact, atol=0.51e-30)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_range_that_is_too_large_for_any_scale_is_an_error(symmetric: bool) -> None:
    largest = float(np.finfo("float32").max)
    with pytest.raises(ScaleTooLargeError, match="scales are below"):
        spread(-largest, largest, QuantizationSpec(symmetric=symmetric))
    assert spread(0, 2e32, QuantizationSpec(signed=False, symmetric=symmetric)).parameters.scale < 1e30


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (QuantizationSpec(dtype="uint8"), "signed int8"),
        (QuantizationSpec(dtype="int8", symmetric=False), "zero points of weights"),
        (
            QuantizationSpec(dtype="int8", observer=ObserverSpec(algorithm="kl")),
            "abs_max or mse, without options; not kl",
        ),
    ],
    ids=["dtype", "asymmetric", "observer"],
)
def test_weights_that_cannot_be_computed_yet_are_told(spec: QuantizationSpec, message: str) -> None:
    assert message in (spec.unsupported_weights() or "")


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_what_can_be_computed(per_channel: bool, bits: int) -> None:
    assert weight_spec(per_channel, bits=bits).unsupported_weights() is None


def test_weights_of_convolutions_have_8_bits() -> None:
    assert "dense layers may be int4" in (weight_spec(per_channel=True, bits=4).unsupported_weights("conv2d") or "")
