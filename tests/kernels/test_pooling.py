"""`nn.max_pool2d`, `nn.avg_pool2d` and `qnn.avg_pool2d`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import AvgPool2d, MaxPool2d, QAvgPool2d
from tests.kernels.tensors import (
    CHANNELS,
    HALOS,
    QUANTIZED_VALUES,
    SEEDS,
    Array,
    Halo,
    assert_close,
    assert_exact,
    every_vector_length,
    floats,
    quantized_values,
    requantization,
)


@dataclass(frozen=True)
class Window:
    """A pooling window on one image axis; `size` is the image's."""

    size: int
    window: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def out(self) -> int:
        return (self.size + self.before + self.after - self.dilation * (self.window - 1) - 1) // self.stride + 1


@st.composite
def windows(draw: st.DrawFn, dilations: tuple[int, ...] = (1,)) -> Window:
    """Draw one; it may reach over the edge by any amount, even lie outside the image completely."""
    size, window, stride = draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    dilation, before = draw(st.sampled_from(dilations)), draw(st.integers(0, window + 1))
    least = max(0, dilation * (window - 1) + 1 - size - before)
    return Window(size, window, stride, dilation, before, least + draw(st.integers(0, window + 1)))


@every_vector_length
@given(
    batch=st.integers(1, 2),
    rows=windows(dilations=(1, 2)),
    columns=windows(dilations=(1, 2)),
    channels=CHANNELS,
    dtype=st.sampled_from(["uint8", "int8", "float32"]),
    halo=HALOS,
    seed=SEEDS,
)
def test_largest_value_of_each_window(
    isa_name: str, batch: int, rows: Window, columns: Window, channels: int, dtype: str, halo: Halo, seed: int
) -> None:
    operator = MaxPool2d(
        (rows.window, columns.window),
        (rows.stride, columns.stride),
        (rows.before, columns.before, rows.after, columns.after),
        (rows.dilation, columns.dilation),
        halo,
        7.0,
    )
    make = floats if dtype == "float32" else quantized_values
    x = make(np.random.default_rng(seed), batch, rows.size, columns.size, channels)
    assert_exact(isa_name, operator, x.view(dtype))


@every_vector_length
@given(
    batch=st.integers(1, 2),
    rows=windows(),
    columns=windows(),
    channels=CHANNELS,
    fields=requantization(),
    zero_point=QUANTIZED_VALUES,
    seed=SEEDS,
)
def test_mean_of_each_window(
    isa_name: str,
    batch: int,
    rows: Window,
    columns: Window,
    channels: int,
    fields: dict[str, int],
    zero_point: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    operator = QAvgPool2d(
        **fields,
        pool_size=(rows.window, columns.window),
        strides=(rows.stride, columns.stride),
        padding=(rows.before, columns.before, rows.after, columns.after),
        input_zero_point=zero_point,
    )
    # A quarter and its like make exact halves; the others don't.
    multiplier = random.choice(np.array([0.25, 0.5, 1 / 9, 0.3], "float32"), (rows.out, columns.out))
    x = quantized_values(random, batch, rows.size, columns.size, channels)
    assert_exact(isa_name, operator, x, multiplier)


@dataclass(frozen=True)
class Global:
    height: int
    width: int
    channels: int


GLOBAL = {
    "mobilenet": Global(7, 7, 1280),
    "channels in no vector": Global(7, 7, 1001),
    "sums beyond 16 bits": Global(17, 17, 40),
    "squeeze-excite of a large image": Global(56, 56, 24),
}


@every_vector_length
@pytest.mark.parametrize("image", GLOBAL.values(), ids=GLOBAL)
def test_global_mean(isa_name: str, image: Global) -> None:
    operator = QAvgPool2d(output_zero_point=9, pool_size=(image.height, image.width), input_zero_point=128)
    multiplier = np.full((1, 1), 1.7 / (image.height * image.width), "float32")
    random = np.random.default_rng(0)
    assert_exact(isa_name, operator, quantized_values(random, 2, image.height, image.width, image.channels), multiplier)
    brightest = np.full((1, image.height, image.width, image.channels), 255, "uint8")
    assert_exact(isa_name, operator, brightest, multiplier)


@every_vector_length
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_stem_of_resnet(isa_name: str, dtype: str) -> None:
    make = quantized_values if dtype == "uint8" else floats
    x = make(np.random.default_rng(0), 1, 112, 112, 64)
    assert_exact(isa_name, MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)), x)


def assert_mean_is_close(isa_name: str, operator: AvgPool2d, x: Array, multiplier: Array) -> None:
    assert_close(isa_name, operator, x, multiplier, rtol=1e-5, atol=1e-5 * float(np.abs(x).max()))


@every_vector_length
@given(rows=windows(), columns=windows(), channels=CHANNELS, seed=SEEDS)
def test_float_mean_of_each_window(isa_name: str, rows: Window, columns: Window, channels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    operator = AvgPool2d(
        (rows.window, columns.window),
        (rows.stride, columns.stride),
        (rows.before, columns.before, rows.after, columns.after),
    )
    multiplier = random.random((rows.out, columns.out)).astype("float32")
    assert_mean_is_close(isa_name, operator, floats(random, 2, rows.size, columns.size, channels), multiplier)


@every_vector_length
@pytest.mark.parametrize("image", GLOBAL.values(), ids=GLOBAL)
def test_global_float_mean(isa_name: str, image: Global) -> None:
    operator = AvgPool2d(pool_size=(image.height, image.width))
    x = floats(np.random.default_rng(0), 2, image.height, image.width, image.channels)
    assert_mean_is_close(isa_name, operator, x, np.full((1, 1), 1 / (image.height * image.width), "float32"))
