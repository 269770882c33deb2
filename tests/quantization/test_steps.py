"""The steps of quantization, their order, and what each leaves to the next."""

from __future__ import annotations

import numpy as np
import pytest
import tvm_ffi

from pipeline.config.options import CorrectionOptions, QuantizeOptions
from pipeline.config.schema import options_of
from pipeline.errors import OptionError
from pipeline.ir.program import Program
from pipeline.quantization.annotate import annotate
from pipeline.quantization.calibrate import calibrate
from pipeline.quantization.corrections import CORRECTIONS
from pipeline.quantization.realize import realize
from pipeline.quantization.steps import Annotate, Calibrate, Correct, Realize, State, TakeTable, run, steps
from tests.models import import_test_model, small_network

random = np.random.default_rng(0)
samples = [random.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(3)]
corrected = QuantizeOptions(corrections=CorrectionOptions(bias_correction=True))


@pytest.fixture(scope="module")
def program() -> Program:
    return import_test_model(small_network())


def test_steps_come_in_their_order() -> None:
    kinds = [type(step) for step in steps(samples, corrected)]
    assert kinds == [Annotate, Calibrate, Correct, Realize]
    assert [type(step) for step in steps(samples, QuantizeOptions())] == [Annotate, Calibrate, Realize]


def test_steps_are_what_the_stages_do_one_by_one(program: Program) -> None:
    annotation = annotate(program)
    table = calibrate(program, annotation, samples)
    expected, outcome = realize(program, annotation, table)
    state = run(program, steps(samples, QuantizeOptions()))
    assert (state.annotation, state.table) == (outcome, table)
    assert tvm_ffi.structural_equal(state.program.module, expected.module, map_free_vars=True)


def test_a_table_that_is_given_is_taken(program: Program) -> None:
    table = calibrate(program, annotate(program), samples)
    chosen = steps(None, QuantizeOptions(), table=table)
    assert isinstance(chosen[1], TakeTable)
    assert run(program, chosen).table is table


def test_a_correction_does_not_change_the_table(program: Program) -> None:
    plain, other = (run(program, steps(samples, options)) for options in (QuantizeOptions(), corrected))
    assert plain.table == other.table
    assert [[c.name for c in state.corrections] for state in (plain, other)] == [[], ["bias_correction"]]
    assert not tvm_ffi.structural_equal(plain.program.module, other.program.module, map_free_vars=True)


def test_a_correction_without_samples_is_an_error(program: Program) -> None:
    table = calibrate(program, annotate(program), samples)
    with pytest.raises(OptionError, match=r"bias_correction \(--bias-correction\): corrections need statistics"):
        steps(None, corrected, table=table)


def test_a_step_in_the_wrong_place_is_a_defect(program: Program) -> None:
    with pytest.raises(TypeError, match="before calibration"):
        Realize()(State(program))


def test_every_correction_has_a_switch_that_is_off() -> None:
    assert {o.key: o.default for o in options_of(CorrectionOptions)} == dict.fromkeys(CORRECTIONS, False)
