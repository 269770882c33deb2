"""Float and int8 side by side: what is said of each tensor is what the reference's own values say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.analysis.comparison import Comparison, TensorComparison, compare_tensors
from pipeline.api import Quantized, quantize
from pipeline.reference import execute_all
from tests.models import ModelBuilder, import_test_model, small_network, tiny_network

Feeds = dict[str, npt.NDArray[np.float32]]


def images(count: int, scale: float, seed: int = 0) -> list[Feeds]:
    random = np.random.default_rng(seed)
    return [{"x": (scale * random.standard_normal((1, 3, 12, 12))).astype("float32")} for _ in range(count)]


@pytest.fixture(scope="module")
def small() -> Quantized:
    """A network that is calibrated with smaller values than it is compared on, so that some are clipped."""
    return quantize(import_test_model(small_network()), images(2, 0.5), algorithm="abs_max")


@pytest.fixture(scope="module")
def compared(small: Quantized) -> Comparison:
    return compare_tensors(small, images(3, 1.0, seed=1), "samples", below=20)


def values_of(quantized: Quantized, feeds: list[Feeds], name: str) -> tuple[npt.NDArray[np.float32], ...]:
    """Return a tensor's values in the float program, and its quantized ones, by the reference."""
    runs = [[{str(v.name): a for v, a in execute_all(p, f).items()} for f in feeds] for p in programs(quantized)]
    return tuple(
        np.stack([run.get(f"{name}.quantized", run[name]) if i else run[name] for run in each])
        for i, each in enumerate(runs)
    )


def programs(quantized: Quantized) -> tuple[object, object]:
    return quantized.source, quantized.program


@pytest.mark.parametrize("place", range(0, 30, 3))
def test_each_tensor_is_described_by_its_values(small: Quantized, compared: Comparison, place: int) -> None:
    eight_bit = [t for t in compared.tensors if t.precision == "int8"]
    tensor = eight_bit[place % len(eight_bit)]
    exact, stored = values_of(small, images(3, 1.0, seed=1), tensor.name)
    entry = small.table.tensors[small.annotation.source(tensor.name)]
    reals = (stored.astype("float64") - entry.zero_point) * entry.scale
    noise = ((exact - reals) ** 2).sum()
    low, high = -entry.zero_point * entry.scale, (255 - entry.zero_point) * entry.scale
    outside = (exact < low - entry.scale / 2) | (exact > high + entry.scale / 2)
    # The compiler may sum floats in another order; the quantized values are exact.
    assert tensor.sqnr_db == pytest.approx(10 * np.log10((exact.astype("float64") ** 2).sum() / noise), abs=0.01)
    assert tensor.clipped == pytest.approx(outside.mean(), abs=1.5 / exact.size)
    assert tensor.unused == pytest.approx(1 - len(np.unique(stored)) / 256)


def test_values_beyond_the_range_are_counted_as_clipped(compared: Comparison) -> None:
    assert compared.tensors[0].name == "x.permuted"
    assert 0 < compared.tensors[0].clipped < 0.5


def test_tensors_come_in_order_of_execution_and_end_with_the_float_output(compared: Comparison) -> None:
    assert (compared.samples, compared.tensors[-1].name, compared.tensors[-1].precision) == (3, "scores", "float32")
    assert compared.tensors[-1].clipped is None


def test_the_fall_is_from_the_worst_tensor_that_is_read() -> None:
    quantized = quantize(import_test_model(tiny_network()), images(2, 1.0))
    found = compare_tensors(quantized, images(2, 1.0), "samples", below=20)
    by_name = {t.name: t for t in found.tensors}
    last, before = found.tensors[-1], found.tensors[-2]
    assert last.fall_db == pytest.approx(before.sqnr_db - last.sqnr_db)
    assert by_name["x.permuted"].fall_db is None


def test_a_fused_limit_is_part_of_a_float_result() -> None:
    b = ModelBuilder()
    weight = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype("float32")
    y = b.node("Clip", b.node("Conv", "x", b.constant(weight)), b.constant(np.float32(-1)), b.constant(np.float32(1)))
    quantized = quantize(import_test_model(b.model({"x": [1, 3, 12, 12]}, y)), images(2, 1.0))
    found = compare_tensors(quantized, images(2, 1.0), "samples", below=20)
    assert found.tensors[-1].precision == "float32"
    assert found.tensors[-1].sqnr_db > 30, "values beyond the limits aren't noise"


def tensor(name: str, sqnr_db: float) -> TensorComparison:
    return TensorComparison(name, "conv2d", "int8", sqnr_db, None, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("decibels", "first"),
    [((40.0, 19.0, 30.0, 10.0), "t1"), ((20.0, 25.0), None), ((math.inf, -math.inf), "t1"), ((), None)],
    ids=["first, not worst", "just good enough", "lost", "nothing"],
)
def test_quality_falls_first_where_it_is_first_less_than_asked_for(
    decibels: tuple[float, ...], first: str | None
) -> None:
    tensors = tuple(tensor(f"t{i}", d) for i, d in enumerate(decibels))
    found = Comparison("model", 1, "samples", 20.0, tensors)
    assert found.to_dict()["first"] == first
