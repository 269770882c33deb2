"""Weights rounded by second moments: what the paper's algorithm gives, and never worse than the nearest ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import ops
from pipeline.compiler.calibration_loops import unit_lower_factor
from pipeline.config.options import AnnotateOptions, CalibrateOptions
from pipeline.ir.dataflow import Dataflow, constant
from pipeline.ir.program import Program
from pipeline.quantization.corrections.layers import int8_layers
from pipeline.quantization.corrections.moments import BITS, Columns, SecondMoments
from pipeline.quantization.corrections.weight_rounding import DAMPING, WeightRounding, round_with_moments
from pipeline.quantization.realize import realize
from pipeline.quantization.state import State
from pipeline.quantization.statistics import is_held_back
from pipeline.quantization.steps import Annotate, Calibrate, run
from tests.models import ModelBuilder, import_test_model
from tests.properties import examples

random = np.random.default_rng(0)


def gptq(weight: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return weights [O,K] rounded as in the paper, each step with the inverse of what is left of the moments."""
    left = list(np.argsort(np.diag(moments), kind="stable")[::-1])
    damped = moments + DAMPING * np.diag(moments).mean() * np.eye(len(moments))
    wanted, rounded = weight.copy(), np.zeros_like(weight)
    while left:
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        first, *left = left
        rounded[:, first] = np.clip(np.rint(wanted[:, first]), -127, 127)
        error = (wanted[:, first] - rounded[:, first]) / inverse[0, 0]
        wanted[:, left] -= error[:, None] * inverse[0, 1:]
    return rounded


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**32))
@examples(30)
def test_rounding_is_the_paper_s(columns: int, rows: int, seed: int) -> None:
    own = np.random.default_rng(seed)
    x = own.standard_normal((rows, columns)) @ own.standard_normal((columns, columns))
    weight = own.uniform(-100, 100, (5, columns))
    moments = x.T @ x / rows
    np.testing.assert_array_equal(round_with_moments(weight[None], moments[None])[0], gptq(weight, moments))


def test_the_factor_is_cholesky_s() -> None:
    x = random.standard_normal((3, 20, 8))
    moments = x.transpose(0, 2, 1) @ x
    lower = np.linalg.cholesky(moments)
    expected = lower / np.einsum("bkk->bk", lower)[:, None, :]
    np.testing.assert_allclose(unit_lower_factor(moments), expected, rtol=0, atol=1e-12)


def test_columns_that_are_always_zero_have_the_nearest_weights() -> None:
    weight = random.uniform(-100, 100, (1, 4, 6))
    np.testing.assert_array_equal(round_with_moments(weight, np.zeros((1, 6, 6))), np.rint(weight))


def test_the_largest_weights_stay() -> None:
    weight = random.uniform(-100, 100, (1, 4, 6))
    weight[0, :, 2] = [127, -127, 127, -127]
    x = random.standard_normal((20, 6)) @ random.standard_normal((6, 6))
    assert round_with_moments(weight, (x.T @ x)[None])[0, :, 2].tolist() == [127, -127, 127, -127]


GEOMETRIES = [
    (ops.Conv2d(padding=(1, 1, 1, 1)), (6, 3, 3, 4)),
    (ops.Conv2d(strides=(2, 1), padding=(0, 1, 2, 0), dilation=(1, 2)), (6, 2, 3, 4)),
    (ops.Conv2d(groups=2), (6, 2, 2, 2)),
    (ops.Conv2d(groups=4), (4, 3, 3, 1)),
    (ops.Dense(), (6, 4)),
]


@pytest.mark.parametrize("width", [512, 5], ids=["one block", "several blocks"])
@pytest.mark.parametrize(("operator", "shape"), GEOMETRIES, ids=str)
def test_weights_times_columns_are_the_layer_s_sums(
    operator: ops.Conv2d | ops.Dense, shape: tuple[int, ...], width: int
) -> None:
    columns = Columns(operator, shape, width)
    x = random.standard_normal((1, 6, 7, 4) if isinstance(operator, ops.Conv2d) else (3, 4)).astype("float32")
    weight = random.standard_normal(shape)
    blocks = columns.cut(weight)
    assert blocks.shape[2] <= width
    np.testing.assert_array_equal(columns.joined(blocks), weight)
    products = columns.seen(x).transpose(0, 2, 1) @ blocks.transpose(0, 2, 1)
    sums = products.reshape(columns.groups, columns.blocks, -1, products.shape[2]).sum(axis=1)
    found = sums.transpose(1, 0, 2).reshape(-1, shape[0])
    expected = operator.evaluate(x, weight, np.zeros(shape[0], "float32")).reshape(-1, shape[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_moments_are_those_of_the_rows_nearly() -> None:
    columns = Columns(ops.Dense(), (6, 4), 512)
    batches = [(random.standard_normal((9, 4)) * [1, 1e-3, 50, 0]).astype("float32") for _ in range(8)]
    seen = SecondMoments(columns)
    for batch in batches:
        seen.update(batch)
    for moments, chosen in ((seen.learned_from, False), (seen.held_back, True)):
        rows = np.concatenate([b for i, b in enumerate(batches) if is_held_back(i) is chosen]).astype("float64")
        step = np.abs(rows).max(axis=0) / 2 ** (BITS - 1)
        assert moments.count == len(rows)
        assert (np.abs(moments.means[0] - rows.mean(axis=0)) <= step).all()
        center = rows.mean(axis=0)
        expected = (rows - center).T @ (rows - center) / len(rows)
        largest = np.abs(rows).max(axis=0)
        allowed = step[:, None] * largest[None] + largest[:, None] * step[None]
        assert (np.abs(moments.about(center[None])[0] - expected) <= allowed).all()


def test_of_many_batches_some_are_looked_at_on_either_side() -> None:
    columns = Columns(ops.Dense(), (6, 4), 512)
    seen = SecondMoments(columns)
    for _ in range(160):
        seen.update(np.ones((1, 4), "float32"))
    assert (seen.learned_from.count, seen.held_back.count) == (48 + 6, 16 + 6)


def one_layer(groups: int) -> Program:
    b = ModelBuilder()
    weight, bias = (random.standard_normal(s).astype("float32") for s in ((8, 16 // groups, 3, 3), (8,)))
    y = b.node("Conv", "x", b.constant(weight), b.constant(bias), group=groups, pads=[1] * 4, name="y")
    return import_test_model(b.model({"x": (1, 16, 6, 6)}, y))


def correlated(count: int) -> list[np.ndarray]:
    """Return images [1,16,6,6] whose channels are mixtures of a few."""
    mixed = random.standard_normal((16, 4))
    images = (np.einsum("ck,khw->chw", mixed, random.standard_normal((4, 6, 6))) + 1 for _ in range(count))
    return [image[None].astype("float32") for image in images]


def calibrated(program: Program, samples: list[np.ndarray]) -> State:
    options = CalibrateOptions(algorithm="abs_max")
    return run(program, [Annotate(AnnotateOptions()), Calibrate(samples, options, [WeightRounding()])])


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_error_on_held_back_samples_is_less_than_that_of_the_nearest_weights(groups: int) -> None:
    program, samples = one_layer(groups), correlated(16)
    state = calibrated(program, samples)
    corrected = WeightRounding().apply(state)
    before, after = (int8_layers(p, state.annotation)["y"] for p in (program, corrected.program))
    step = np.abs(before.weight).max(axis=(1, 2, 3), keepdims=True) / 127
    assert (np.abs(after.weight / step - np.rint(after.weight / step)) < 1e-3).sum() > after.weight.size // 2
    nearest = np.rint(before.weight / step) * step
    x = np.concatenate([s for i, s in enumerate(samples) if is_held_back(i)]).transpose(0, 2, 3, 1)
    operator = before.operator
    exact = operator.evaluate(x, before.weight, before.bias)
    errors = []
    for weight, bias in ((nearest, before.bias), (after.weight, after.bias)):
        errors.append(np.square(operator.evaluate(x, weight, bias) - exact).mean(axis=(0, 1, 2)))
    assert errors[1].sum() < errors[0].sum() / 2


def int8_weights(program: Program, samples: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [8,...] that rounding chooses, and the int8 program's."""
    corrected = WeightRounding().apply(calibrated(program, samples))
    realized, _ = realize(corrected.program, corrected.annotation, corrected.calibrated())
    (binding,) = (b for b in Dataflow.of(realized.module).bindings if b.operator == "qnn.conv2d")
    weight = constant(binding.value.args[1])
    assert weight is not None
    return int8_layers(corrected.program, corrected.annotation)["y"].weight, weight


def test_int8_has_exactly_the_weights_that_were_chosen_each_time() -> None:
    program, samples = one_layer(1), correlated(16)
    (chosen, found), (_, again) = (int8_weights(program, samples) for _ in range(2))
    step = np.abs(chosen).max(axis=(1, 2, 3), keepdims=True) / 127
    np.testing.assert_array_equal(found, np.rint(chosen / step))
    np.testing.assert_array_equal(found, again)
