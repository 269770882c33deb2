"""Ranges with the smallest squared error in place of those that `auto` has chosen."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from pipeline.config.options import AnnotateOptions, CalibrateOptions
from pipeline.quantization.corrections import CannotCorrect
from pipeline.quantization.corrections.mse_ranges import MSERanges
from pipeline.quantization.state import State
from pipeline.quantization.steps import Annotate, Calibrate, Correct, run
from tests.models import ModelBuilder, import_test_model

SHAPE = (1, 4, 8, 8)
SAMPLES = np.random.default_rng(5).standard_t(4, size=(16, *SHAPE)).astype("float32")


def calibrated(algorithm: str = "auto") -> State:
    """Return the state of two convolutions; values of their inputs have long tails, so `kl` clips less than `mse`."""
    b, random = ModelBuilder(), np.random.default_rng(6)
    weights = [b.constant(random.standard_normal((4, 4, 1, 1)).astype("float32")) for _ in range(2)]
    y = b.node("Conv", b.node("Relu", b.node("Conv", "x", weights[0])), weights[1], name="y")
    program = import_test_model(b.model({"x": SHAPE}, y))
    options = CalibrateOptions(algorithm=algorithm)
    return run(program, [Annotate(AnnotateOptions()), Calibrate(SAMPLES, options, [MSERanges()], keep_samples=True)])


def test_ranges_are_those_that_mse_calibrates() -> None:
    state = calibrated()
    assert state.closest
    corrected = MSERanges().apply(state).calibrated().tensors
    for name, entry in calibrated("mse").calibrated().tensors.items():
        assert corrected[name] == entry


def test_ranges_of_another_algorithm_stay() -> None:
    with pytest.raises(CannotCorrect, match="of another algorithm"):
        MSERanges().apply(calibrated("kl"))


def test_scales_for_each_channel_stay() -> None:
    state = calibrated()
    name = next(iter(state.closest))
    table = state.calibrated()
    scaled = msgspec.structs.replace(table.tensors[name], scale=4.0, channel_scales=(1.0, 2.0, 3.0, 4.0))
    table = msgspec.structs.replace(table, tensors={**table.tensors, name: scaled})
    assert MSERanges().apply(dataclasses.replace(state, table=table)).calibrated().tensors[name] == scaled


def test_a_small_gain_is_none() -> None:
    state = dataclasses.replace(calibrated(), sqnr_db=None)
    same = dataclasses.replace(
        state, closest={n: msgspec.structs.replace(e, minimum=-9.0) for n, e in state.calibrated().tensors.items()}
    )
    (outcome,) = Correct(MSERanges())(same).corrections
    assert outcome.before_db == outcome.after_db
    assert not outcome.kept
