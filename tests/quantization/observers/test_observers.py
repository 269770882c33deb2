"""What holds for every calibration algorithm."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import OptionError
from pipeline.quantization.observers import ALGORITHMS, Observer, make_observer
from pipeline.quantization.observers.readers import in_products
from pipeline.quantization.spec import ObserverSpec, QuantizationSpec
from tests.properties import examples

arrays = hnp.arrays("float32", st.integers(0, 40), elements=st.floats(-100, 100, width=32, allow_subnormal=False))
batches = st.lists(arrays, min_size=1, max_size=5)
specs = st.builds(QuantizationSpec, signed=st.just(True), symmetric=st.booleans())
every_algorithm = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
all_but_moving_averages = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS.keys() - {"moving_average"}))


def observed(algorithm: str, *values: np.ndarray, **options: float) -> Observer:
    observer = make_observer(ObserverSpec(algorithm=algorithm, options=options))
    for array in values:
        observer.update(array)
    return observer


@all_but_moving_averages
@given(left=batches, right=batches, spec=specs)
@examples(40)
def test_two_observers_merged_choose_as_one(
    algorithm: str, left: list[np.ndarray], right: list[np.ndarray], spec: QuantizationSpec
) -> None:
    merged = observed(algorithm, *left)
    merged.merge(observed(algorithm, *right))
    whole = observed(algorithm, *left, *right)
    assert merged.choose(spec) == whole.choose(spec)
    assert (merged.minimum, merged.maximum) == (whole.minimum, whole.maximum)


@every_algorithm
@given(left=batches, right=batches, spec=specs)
@examples(15)
def test_an_observer_that_is_stored_goes_on_as_one_that_never_stopped(
    algorithm: str, left: list[np.ndarray], right: list[np.ndarray], spec: QuantizationSpec
) -> None:
    file = io.BytesIO()
    np.savez(file, **observed(algorithm, *left).state())
    file.seek(0)
    resumed = observed(algorithm)
    with np.load(file, allow_pickle=False) as state:
        resumed.restore(dict(state))
    for array in right:
        resumed.update(array)
    whole = observed(algorithm, *left, *right)
    assert resumed.choose(spec) == whole.choose(spec)
    assert (resumed.minimum, resumed.maximum) == (whole.minimum, whole.maximum)


@all_but_moving_averages
@given(batches=batches, spec=specs)
@examples(40)
def test_the_order_and_size_of_batches_do_not_matter(
    algorithm: str, batches: list[np.ndarray], spec: QuantizationSpec
) -> None:
    expected = observed(algorithm, *batches).choose(spec)
    assert observed(algorithm, *batches[::-1]).choose(spec) == expected
    assert observed(algorithm, np.concatenate(batches)).choose(spec) == expected


@every_algorithm
def test_nothing_goes_beyond_the_range_seen(algorithm: str) -> None:
    observer = observed(algorithm, np.array([-3.0, 0.5, 2.0], "float32"))
    assert 0 < observer.choose(QuantizationSpec(symmetric=False)).threshold <= 3.0
    assert (observer.minimum, observer.maximum) == (-3.0, 2.0)


@every_algorithm
def test_an_observer_that_has_seen_nothing_chooses_scale_one(algorithm: str) -> None:
    assert observed(algorithm).choose(QuantizationSpec(symmetric=False)).parameters.scale == 1.0


@every_algorithm
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "values",
    [[0.0], [5.0], [-5.0, -5.0], [1e-38], [1e-30, -1e-30], [1e30, 1.0], [-1e30, 1e-30], [1e-45, 1e31]],
    ids=str,
)
def test_any_range_that_scales_can_have_is_covered(algorithm: str, values: list[float], symmetric: bool) -> None:
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        choice = observed(algorithm, np.array(values, "float32")).choose(QuantizationSpec(symmetric=symmetric))
    assert np.isfinite(choice.threshold)
    assert 1e-30 < choice.parameters.scale < 1e30
    assert 0 <= choice.parameters.zero_point <= 255


@every_algorithm
def test_an_unknown_option_is_an_error(algorithm: str) -> None:
    with pytest.raises(
        OptionError, match=f"algorithm {algorithm}.*'keptt'|'keptt'.*algorithm {algorithm}|{algorithm} 'keptt'"
    ):
        observed(algorithm, keptt=0.5)


def test_an_unknown_algorithm_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"Unknown calibration algorithm 'ptf'.*powers of two, isn't there.*--equal"):
        observed("ptf")
    with pytest.raises(OptionError, match=r"Unknown calibration algorithm 'kll'.*Did you mean 'kl'"):
        observed("kll")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kept": 1.5}, "kept"), ({"bins": 1000}, "power of two"), ({"bins": 0.5}, "bins")],
    ids=["range", "power_of_two", "type"],
)
def test_a_wrong_value_of_an_option_is_an_error(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=f"algorithm kl.*{message}"):
        observed("kl", **options)


def test_abs_max_chooses_the_largest_magnitude() -> None:
    observer = observed("abs_max", np.array([-3.0, 0.5], "float32"), np.array([2.0], "float32"))
    assert observer.choose(QuantizationSpec(symmetric=True)).threshold == 3.0


def test_min_max_has_a_zero_point_even_where_steps_are_to_be_symmetric() -> None:
    observer = observed("min_max", np.array([-1.0, 3.0], "float32"))
    choice = observer.choose(QuantizationSpec(symmetric=True))
    assert (choice.parameters.zero_point, choice.parameters.scale) == (64, np.float32(4 / 255))


def test_avg_chooses_the_mean_of_the_samples_largest_magnitudes() -> None:
    observer = observed("avg", np.array([[-3.0, 0.5], [1.0, 0.0]], "float32"), np.array([[2.0, -9.0]], "float32"))
    assert observer.choose(QuantizationSpec(symmetric=True)).threshold == (3 + 1 + 9) / 3


def test_hist_keeps_a_share_of_all_magnitudes() -> None:
    values = np.arange(-100, 100, dtype="float32")
    threshold = observed("hist", values, hist_percent=0.9).choose(QuantizationSpec(symmetric=True)).threshold
    assert (np.abs(values) <= threshold).mean() == pytest.approx(0.9, abs=0.01)
    assert observed("hist", values).choose(QuantizationSpec(symmetric=True)).threshold == 100


@pytest.mark.parametrize("symmetric", [False, True])
def test_emd_chooses_a_smaller_absolute_error_than_mse_and_mse_a_smaller_squared_one(symmetric: bool) -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=50_000), random.normal(scale=8, size=500)]).astype("float32")
    spec = QuantizationSpec(symmetric=symmetric)
    errors = {}
    for algorithm in ("emd", "mse"):
        parameters = observed(algorithm, values).choose(spec).parameters
        quantized = np.clip(np.rint(values / parameters.scale) + parameters.zero_point, 0, 255)
        errors[algorithm] = np.abs(values - (quantized - parameters.zero_point) * parameters.scale).astype("float64")
    assert errors["emd"].mean() < errors["mse"].mean()
    assert (errors["mse"] ** 2).mean() < (errors["emd"] ** 2).mean()


@pytest.mark.parametrize(
    ("outliers", "chosen"),
    [(np.array([9.0]), "kl"), (np.full(50, 60.0), "mse")],
    ids=["cheap_to_clip", "dear"],
)
def test_auto_chooses_kl_unless_its_error_is_much_larger(outliers: np.ndarray, chosen: str) -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=1_000_000), outliers]).astype("float32")
    spec = QuantizationSpec(symmetric=False)
    choices = {algorithm: observed(algorithm, values).choose(spec) for algorithm in ("auto", "kl", "mse")}
    assert choices["kl"] != choices["mse"]
    mse = replace(choices["mse"], algorithm="mse")
    assert choices["auto"] == (mse if chosen == "mse" else replace(choices["kl"], algorithm="kl", closest=mse))
    assert observed("auto", values, tolerance=0).choose(spec) == mse
    in_dense_layers = observed("auto", values).choose(spec, (in_products,))
    assert in_dense_layers == mse


def test_a_moving_average_forgets() -> None:
    samples = [np.array([[-v, 2 * v]], "float32") for v in (1.0, 1.0, 3.0)]
    observer = observed("moving_average", *samples, momentum=0.5)
    wanted = (1 * 0.125 + 1 * 0.25 + 3 * 0.5) / 0.875
    choice = observer.choose(QuantizationSpec(symmetric=False))
    assert choice.parameters.scale * 255 == pytest.approx(3 * wanted)


@given(left=batches, right=batches)
@examples(40)
def test_a_moving_average_takes_what_is_merged_as_the_later_samples(
    left: list[np.ndarray], right: list[np.ndarray]
) -> None:
    merged = observed("moving_average", *left)
    merged.merge(observed("moving_average", *right))
    spec = QuantizationSpec(symmetric=False)
    assert merged.choose(spec).threshold == pytest.approx(
        observed("moving_average", *left, *right).choose(spec).threshold, rel=1e-9, abs=1e-12
    )


def test_kl_clips_no_more_than_it_may() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=200_000), [50.0]]).astype("float32")
    spec = QuantizationSpec(symmetric=True)
    assert observed("kl", values, kept=1).choose(spec).threshold == 50.0
    assert observed("kl", values).choose(spec).threshold < 10


def test_kl_looks_as_finely_as_it_has_bins() -> None:
    observer = observed("kl", np.ones(5, "float32"), bins=1024)
    assert observer.counts.shape == (1024,)
