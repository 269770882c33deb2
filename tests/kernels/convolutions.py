"""Random convolutions: one description makes the integer and the float32 operator, with their arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from pipeline.ops import Conv2d, QConv2d
from pipeline.quantization.weights import short_multipliers

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Convolution:
    """Sizes of a convolution; height and width are those of the (padded) input, channels those of one group."""

    batch: int
    height: int
    width: int
    channels_in: int
    channels_out: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.height, self.width, self.groups * self.channels_in)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.groups * self.channels_out, *self.kernel, self.channels_in)

    def integer(self, seed: int, output_dtype: str = "uint8") -> tuple[QConv2d, list[Array]]:
        """Return the integer operator, with random values and attributes."""
        random = np.random.default_rng(seed)
        low, high = sorted(int(v) for v in random.integers(0, 256, 2))
        operator = QConv2d(
            output_zero_point=int(random.integers(0, 256)),
            output_min=low,
            output_max=high,
            strides=self.strides,
            dilation=self.dilation,
            groups=self.groups,
            input_zero_point=int(random.integers(0, 256)),
            output_dtype=output_dtype,
        )
        return operator, integer_arguments(random, self.x_shape, self.weight_shape)

    def floating(self, seed: int) -> tuple[Conv2d, list[Array]]:
        """Return the float32 operator, with random values and activation."""
        random = np.random.default_rng(seed)
        low, high = ((None, None), (0.0, None), (0.0, 6.0))[int(random.integers(0, 3))]
        operator = Conv2d(self.strides, (0, 0, 0, 0), self.dilation, self.groups, low, high)
        shapes = (self.x_shape, self.weight_shape, self.weight_shape[:1])
        return operator, [random.standard_normal(s).astype("float32") for s in shapes]


def stored_signed(values: Array, signed: bool = True) -> Array:
    """Return uint8 values as int8 stores them, minus 128, or if not `signed` as they are."""
    return (values.astype("int16") - 128).astype("int8") if signed else values


def integer_arguments(
    random: np.random.Generator, x_shape: tuple[int, ...], weight_shape: tuple[int, ...]
) -> list[Array]:
    """Return x, weight, bias and multiplier; extremes of every dtype are likely, and rounding ties are, too."""
    x = random.choice(np.array([0, 1, 127, 128, 254, 255], "uint8"), x_shape)
    x = np.where(random.random(x_shape) < 0.5, x, random.integers(0, 256, x_shape)).astype("uint8")
    weight = random.integers(-127, 128, weight_shape).astype("int8")
    weight[random.random(weight_shape) < 0.1] = -127
    out = weight_shape[0]
    bias = random.integers(-30000, 30000, out).astype("int32")
    # A product is around 100 * 100; multipliers take sums to the order of 100. Powers of two make exact halves.
    scale = 100 / (5000 * np.sqrt(weight[0].size))
    multiplier = (random.random(out) * 2 * scale).astype("float32")
    powers = np.exp2(np.round(np.log2(np.maximum(multiplier, 1e-9)))).astype("float32")
    multiplier = np.where(random.random(out) < 0.3, powers, multiplier)
    multiplier[random.random(out) < 0.05] = 0
    if random.random() < 0.5:
        multiplier = short_multipliers(multiplier)
    return [x, weight, bias, multiplier]


@st.composite
def convolutions(draw: st.DrawFn, depthwise: bool = False) -> Convolution:
    """Draw sizes: any stride, dilation, group and channel count, input just large enough or larger."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    out_h, out_w = draw(st.integers(1, 4)), draw(st.integers(1, 33))
    spare = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    height, width = (
        (o - 1) * s + d * (k - 1) + 1 + min(extra, s - 1)
        for o, s, d, k, extra in zip((out_h, out_w), strides, dilation, kernel, spare, strict=True)
    )
    if depthwise:
        channels, groups = (1, 1), draw(st.integers(2, 70))
    else:
        # Whole vectors of channels, up to a block of them, are where kernels take short cuts.
        channels = draw(st.tuples(st.integers(1, 40), st.integers(1, 70) | st.sampled_from([16, 32, 48, 64, 80, 96])))
        groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return Convolution(draw(st.integers(1, 2)), height, width, *channels, kernel, strides, dilation, groups)
