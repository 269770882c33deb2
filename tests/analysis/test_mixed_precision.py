"""Exceptions from int8: few, cheap, enough, and the same each time; and what is said where none are enough."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.candidates import (
    FLOAT,
    WIDE,
    Candidate,
    Times,
    estimated_times,
    touched_operators,
    trial_order,
    with_exceptions,
    without_idle,
)
from pipeline.analysis.metrics import BUILT_IN, Drop, MeasuredSample, Tally, UserMetric
from pipeline.analysis.mixed_precision import Mixed, mix_precision, smallest
from pipeline.analysis.simulation import Simulation
from pipeline.analysis.switches import TENSOR, WEIGHTS, Part
from pipeline.api import Quantized, quantize
from pipeline.config.options import AnnotateOptions
from pipeline.errors import MetricError, OptionError, SampleError
from pipeline.ir.program import Program
from pipeline.quantization.annotate import annotate
from pipeline.reference import execute
from tests.models import import_test_model, wide_network

Array = npt.NDArray[Any]
Quantizing = Callable[[AnnotateOptions], Quantized]


def stream(count: int, seed: int = 0) -> Iterator[tuple[str, dict[str, Array]]]:
    random = np.random.default_rng(seed)
    for i in range(count):
        yield f"sample {i}", {"x": random.standard_normal((1, 3, 12, 12)).astype("float32")}


@pytest.fixture(scope="module")
def program() -> Program:
    return import_test_model(wide_network())


@pytest.fixture(scope="module")
def quantized(program: Program) -> Quantizing:
    """Quantizes the network, once for each choice of what is left in float."""
    samples = [feed for _, feed in stream(3)]
    keys = {"algorithm": "abs_max", "effort": "none"}
    made = functools.cache(lambda skip, wide: quantize(program, samples, skip=skip, keep_16=wide, **keys))
    return lambda options: made(tuple(options.skip), tuple(options.keep_16))


def mixed(
    quantized: Quantizing,
    max_drop: float | str,
    metric: UserMetric | str = "sqnr",
    count: int = 4,
) -> Mixed:
    drop = Drop.of(max_drop)
    return mix_precision(quantized, AnnotateOptions(), lambda _: stream(count, seed=1), "samples", metric, drop)


@pytest.fixture(scope="module")
def result(quantized: Quantizing) -> Mixed:
    return mixed(quantized, 0.01)


def test_what_is_good_enough_in_int8_has_no_exceptions(quantized: Quantizing) -> None:
    found = mixed(quantized, 0.9)
    assert (found.found.exceptions, found.found.quantizations) == ((), 1)
    assert found.quantized is found.without


def test_the_tensor_that_costs_most_is_excepted(program: Program, result: Mixed) -> None:
    (exception,) = result.found.exceptions
    assert (exception.kind, exception.names) == (WIDE, ("wide",))
    assert (result.found.keep_float, result.found.keep_16) == ((), ("wide",))
    assert exception.operators == ("wide", "third")
    assert result.found.mixed.checked.drop <= result.found.mixed.checked.limit == 0.01 < result.found.int8.checked.drop
    assert exception.gained is not None
    assert exception.gained > 0.01
    # What is said of the model is what the reference makes of it, on every other sample.
    feeds = [feed for _, feed in stream(4, seed=1)][1::2]
    outputs = [[execute(p, f)["y"].astype("float64") for f in feeds] for p in (program, result.quantized.program)]
    exact, rounded = np.array(outputs)
    assert result.found.mixed.checked.drop == pytest.approx(((exact - rounded) ** 2).sum() / (exact**2).sum(), rel=1e-3)
    assert (result.found.searched_on, result.found.checked_on) == (2, 2)


def test_more_is_excepted_where_less_is_allowed(quantized: Quantizing, result: Mixed) -> None:
    found = mixed(quantized, 0.0003).found
    assert len(found.exceptions) > len(result.found.exceptions)
    assert found.mixed.checked.drop <= 0.0003


def share_of_right_signs(outputs: Mapping[str, Array], sample: MeasuredSample) -> float:
    return float((np.sign(outputs["y"]) == np.sign(sample.float_outputs["y"])).mean())


def test_a_metric_of_the_users_decides(quantized: Quantizing) -> None:
    found = mixed(quantized, "2%", UserMetric("user.py:share_of_right_signs", b"", share_of_right_signs)).found
    assert found.float_value == 1.0
    assert found.mixed.checked.value >= 0.98 > found.int8.checked.value


def test_a_metric_that_fails_says_with_what(quantized: Quantizing) -> None:
    def fails(outputs: Mapping[str, Array], sample: MeasuredSample) -> float:
        return 1.0 if np.array_equal(outputs["y"], sample.float_outputs["y"]) else float("nan")

    with pytest.raises(MetricError, match=r"fails returned nan for sample 0, with all of the model quantized"):
        mixed(quantized, 0.5, UserMetric("user.py:fails", b"", fails))


def test_one_sample_is_too_few(quantized: Quantizing) -> None:
    with pytest.raises(SampleError, match=r"at least two batches.*there is one among the samples"):
        mixed(quantized, 0.5, count=1)


def test_a_simulated_model_is_what_quantizing_it_gives(program: Program, quantized: Quantizing) -> None:
    simulation = Simulation(quantized(AnnotateOptions()))
    samples = [MeasuredSample(name, feed, execute(program, feed)) for name, feed in stream(2, seed=1)]
    for options in (AnnotateOptions(), AnnotateOptions(skip=["third"]), AnnotateOptions(keep_16=["wide"])):
        own, model = Tally(), quantized(options)
        for sample in samples:
            own.merge(Tally.of(execute(model.program, sample.inputs), sample, "sqnr", "all"))
        simulated = simulation.tally(annotate(program, options), samples, "sqnr", "all")
        assert simulated.distance.sqnr_db == pytest.approx(own.distance.sqnr_db, abs=0.5)


def test_estimated_times_are_shares(program: Program) -> None:
    times = estimated_times(program)
    # Of each pixel: values of 4 bytes in and out, and multiply-adds. Weights are bytes as well.
    assert times.extra["wide"] / times.extra["first"] == pytest.approx(
        (4 * 8 + 4 * 8 + 64) / (4 * 3 + 4 * 8 + 24), rel=0.1
    )
    assert times.of(times.extra) == pytest.approx(0.75)


def test_times_of_fused_operators_count_together() -> None:
    times = Times({"a": 0.6, "b": -0.1, "c": 0.2}, {}, {}, "known")
    assert times.of(["a", "b"]) == pytest.approx(0.5)
    assert times.of(["b"]) == 0


def test_an_operator_counts_once_whichever_of_its_tensors_have_16_bits() -> None:
    times = Times({"a": 0.6}, {"a": 0.2, "b": 0.1}, {"x": ("a",), "y": ("a", "b")}, "known")
    assert times.of([], ["x", "y"]) == pytest.approx(0.3)
    assert times.of(["a"], ["x", "y"]) == pytest.approx(0.7)


def test_16_bits_cost_time_where_they_are_multiplied(program: Program) -> None:
    # "wide", a convolution, takes no longer for a result of 16 bits; "third", which reads it, does.
    assert touched_operators(program)["wide"] == ("third",)


def candidate(*names: str) -> Candidate:
    return Candidate(FLOAT, names, operators=frozenset(names))


def test_what_gains_most_for_its_time_is_tried_first() -> None:
    parts = {
        Part(WEIGHTS, "a", "conv2d", ("a",)): 0.4,
        Part(WEIGHTS, "b", "conv2d", ("b",)): 0.3,
        Part(WEIGHTS, "c", "conv2d", ("c",)): 0.2,
        # It stays in float only if both that read it do.
        Part(TENSOR, "x", "input", ("b", "c")): 0.1,
    }
    times = Times({"a": 0.6, "b": 0.1, "c": 0.3}, {}, {}, "known")
    order = trial_order([candidate(n) for n in "abc"], parts, times)
    # With b in float, c gains its own weights and the tensor. The last layer stays in int8.
    assert [c.names for c in order] == [("b",), ("c",)]


def test_a_tensor_in_16_bits_is_tried_where_that_is_cheaper() -> None:
    parts = {
        Part(TENSOR, "x", "input", ("b", "c")): 0.5,
        Part(WEIGHTS, "b", "conv2d", ("b",)): 0.3,
        Part(WEIGHTS, "c", "conv2d", ("c",)): 0.2,
    }
    choices = [Candidate(WIDE, ("x",), tensors=frozenset("x")), candidate("b", "c"), candidate("b"), candidate("c")]
    cheap, dear = (Times({"b": 0.2, "c": 0.2}, {"b": time}, {"x": ("b", "c")}, "known") for time in (0.1, 2.0))
    assert [c.kind for c in trial_order(choices, parts, cheap)] == [WIDE, FLOAT]
    assert [c.names for c in trial_order(choices, parts, dear)] == [("b",), ("x",)]


def test_candidates_that_change_nothing_beside_others_are_idle() -> None:
    both, left, right = candidate("a", "b"), candidate("a"), candidate("b")
    assert without_idle([left, both, right]) == (both,)
    assert without_idle([left, right]) == (left, right)


def test_exceptions_are_added_to_what_is_skipped() -> None:
    chosen = [candidate("b", "c"), Candidate(WIDE, ("x",)), candidate("c", "d")]
    options = with_exceptions(AnnotateOptions(skip=["a"], keep_16=["y"]), chosen)
    assert (options.skip, options.keep_16) == (("a", "b", "c", "d"), ("y", "x"))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_the_smallest_number_is_found_in_few_trials(low: int, size: int, threshold: int) -> None:
    high, tried = low + size, list[int]()

    def holds(number: int) -> bool:
        tried.append(number)
        return number >= threshold

    assert smallest(holds, low, high) == min(max(threshold, low), high)
    assert all(low <= number < high for number in tried)
    assert len(tried) == len(set(tried)) <= 2 * np.log2(size + 2) + 1


@pytest.mark.parametrize(
    ("value", "amount", "relative"),
    [("0.5%", 0.005, True), ("0.005", 0.005, False), (0.25, 0.25, False), (0, 0, False)],
)
def test_drops_are_differences_or_relative(value: float | str, amount: float, relative: bool) -> None:
    assert Drop.of(value) == Drop(amount, relative)
    assert Drop.of(str(Drop.of(value))) == Drop.of(value)


@pytest.mark.parametrize("text", ["", "%", "half", "-1%", "nan", "inf", "0.5 dB"])
def test_other_drops_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"expected how much worse than float"):
        Drop.of(text)


def test_a_share_of_nothing_is_no_limit() -> None:
    with pytest.raises(OptionError, match="float's value of KL, nats is 0"):
        Drop.of("1%").limit(BUILT_IN["kl"], Tally())
    assert Drop.of("0.01").limit(BUILT_IN["kl"], Tally()) == 0.01
