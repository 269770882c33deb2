"""The steps of quantization, their order, and what each leaves to the next."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm_ffi

from pipeline.config.options import EFFORTS, AnnotateOptions, CalibrateOptions, CorrectionOptions, QuantizeOptions
from pipeline.config.schema import options_of
from pipeline.errors import OptionError
from pipeline.ir.program import Program
from pipeline.quantization.annotate import annotate
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.calibrate import calibrate
from pipeline.quantization.corrections import (
    CORRECTIONS,
    CannotCorrect,
    Correction,
    wanted_corrections,
    wants_equalization,
)
from pipeline.quantization.corrections.layers import int8_layers, with_biases
from pipeline.quantization.realize import realize
from pipeline.quantization.state import State
from pipeline.quantization.statistics import KeptBatches, Need
from pipeline.quantization.steps import Annotate, Calibrate, Correct, Realize, TakeTable, run, steps
from tests.models import ModelBuilder, import_test_model, small_network

random = np.random.default_rng(0)
samples = [random.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(8)]
plain = QuantizeOptions(corrections=CorrectionOptions(effort="none"))
corrected = QuantizeOptions(corrections=CorrectionOptions(effort="none", bias_correction=True))


@pytest.fixture(scope="module")
def program() -> Program:
    return import_test_model(small_network())


def test_steps_come_in_their_order() -> None:
    kinds = [type(step) for step in steps(samples, corrected)]
    assert kinds == [Annotate, Calibrate, Correct, Realize]
    assert [type(step) for step in steps(samples, plain)] == [Annotate, Calibrate, Realize]


def test_steps_are_what_the_stages_do_one_by_one(program: Program) -> None:
    annotation = annotate(program)
    table = calibrate(program, annotation, samples)
    expected, outcome = realize(program, annotation, table)
    state = run(program, steps(samples, plain))
    assert (state.annotation, state.table) == (outcome, table)
    assert tvm_ffi.structural_equal(state.program.module, expected.module, map_free_vars=True)


def test_a_table_that_is_given_is_taken(program: Program) -> None:
    table = calibrate(program, annotate(program), samples)
    chosen = steps(None, QuantizeOptions(), table=table)
    assert isinstance(chosen[1], TakeTable)
    assert run(program, chosen).table is table


def test_a_correction_does_not_change_the_table(program: Program) -> None:
    without, other = (run(program, steps(samples, options)) for options in (plain, corrected))
    assert without.table == other.table
    assert [[c.name for c in state.corrections] for state in (without, other)] == [[], ["bias_correction"]]


def test_a_correction_without_samples_is_an_error(program: Program) -> None:
    table = calibrate(program, annotate(program), samples)
    with pytest.raises(OptionError, match=r"bias_correction \(--bias-correction\): corrections need statistics"):
        steps(None, corrected, table=table)


def test_a_step_in_the_wrong_place_is_a_defect(program: Program) -> None:
    with pytest.raises(TypeError, match="before calibration"):
        Realize()(State(program))


def test_a_table_and_samples_can_be_corrected(program: Program) -> None:
    table = calibrate(program, annotate(program), samples)
    given, own = run(program, steps(samples, corrected, table=table)), run(program, steps(samples, corrected))
    assert tvm_ffi.structural_equal(given.program.module, own.program.module, map_free_vars=True)
    assert given.corrections == own.corrections


def test_a_table_without_samples_is_warned_of_where_corrections_are_wanted(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    table = calibrate(program, annotate(program), samples)
    options = QuantizeOptions(corrections=CorrectionOptions(effort="balanced"))
    kinds = [type(step) for step in steps(None, options, table=table)]
    assert kinds == [Annotate, TakeTable, Realize]
    assert "without samples, biases aren't corrected" in caplog.text


class Biases(Correction):
    """Adds the same to every bias."""

    name = "biases"
    changes = "biases"

    def __init__(self, added: float) -> None:
        self.added = added

    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        return ()

    def apply(self, state: State) -> State:
        layers = int8_layers(state.program, state.annotation).values()
        biases = {layer.name: layer.bias + self.added for layer in layers}
        return dataclasses.replace(state, program=with_biases(state.program, biases))


class Impossible(Biases):
    def apply(self, state: State) -> State:
        raise CannotCorrect("it can't be done")


def calibrated(program: Program, correction: Correction, count: int = 8) -> State:
    options = CalibrateOptions(algorithm="abs_max")
    return run(
        program, [Annotate(AnnotateOptions()), Calibrate(samples[:count], options, [correction], keep_samples=True)]
    )


@pytest.mark.parametrize(("name", "learns"), [("bias_correction", False), ("layerwise_bias_correction", True)])
def test_samples_to_learn_from_are_kept_only_for_corrections_that_run_on_them(
    program: Program, name: str, learns: bool
) -> None:
    (correction,) = wanted_corrections(CorrectionOptions(effort="none", **{name: True}))
    kept = [s for s in calibrated(program, correction).statistics.values() if type(s) is KeptBatches]
    assert kept
    assert all(len(s.held_back) == 2 and bool(s.learned_from) is learns for s in kept)


def test_a_correction_that_makes_held_back_samples_worse_is_dropped(program: Program) -> None:
    correction = Biases(1.0)
    before = calibrated(program, correction)
    after = Correct(correction)(before)
    (outcome,) = after.corrections
    assert (outcome.name, outcome.kept) == ("biases", False)
    assert outcome.before_db is not None
    assert outcome.after_db is not None
    assert outcome.after_db < outcome.before_db
    assert after.program is before.program


def test_a_correction_that_makes_held_back_samples_better_is_kept(program: Program) -> None:
    worse = dataclasses.replace(before := calibrated(program, Biases(0)), program=Biases(1.0).apply(before).program)
    (outcome,) = Correct(Biases(-1.0))(worse).corrections
    assert outcome.kept
    assert str(outcome).startswith("applied, ")


def softmax_network() -> Program:
    b = ModelBuilder()
    weight = b.constant(random.standard_normal((12, 5)).astype("float32"))
    return import_test_model(
        b.model({"x": (1, 12)}, b.node("Softmax", b.node("MatMul", "x", weight, name="z"), axis=-1))
    )


def test_a_softmax_is_judged_by_its_logits() -> None:
    """Biases that are larger by the same make no difference; noise that the softmax hides does."""
    program, correction = softmax_network(), Biases(1.0)
    rows = [random.standard_normal((1, 12)).astype("float32") for _ in range(8)]
    state = run(program, [Annotate(AnnotateOptions()), Calibrate(rows, CalibrateOptions(), keep_samples=True)])
    (outcome,) = Correct(correction)(state).corrections
    assert outcome.before_db is not None
    assert outcome.before_db == pytest.approx(outcome.after_db, abs=0.1)


def test_too_few_samples_to_check_a_correction_on_drop_it(program: Program) -> None:
    correction = Biases(0)
    (outcome,) = Correct(correction)(calibrated(program, correction, count=3)).corrections
    assert str(outcome) == "dropped: there are fewer than 4 batches of samples, so none to check it on"


def test_a_correction_that_can_not_be_done_says_why(program: Program) -> None:
    correction = Impossible(0)
    (outcome,) = Correct(correction)(calibrated(program, correction)).corrections
    assert (outcome.kept, outcome.note) == (False, "it can't be done")


def test_every_correction_has_a_switch_that_leaves_it_to_the_effort() -> None:
    defaults = {o.key: o.default for o in options_of(CorrectionOptions)}
    assert {key: value for key, value in defaults.items() if key != "effort"} == dict.fromkeys(
        ["equalization", *CORRECTIONS]
    )


def test_channels_are_evened_out_where_the_effort_says_unless_the_switch_does() -> None:
    expected = {"none": "nowhere", "fast": "nowhere", "balanced": "behind normalizations", "best": "everywhere"}
    for effort in EFFORTS:
        assert wants_equalization(CorrectionOptions(effort=effort)) == expected[effort]
        assert wants_equalization(CorrectionOptions(effort=effort, equalization=True)) == "everywhere"
        assert wants_equalization(CorrectionOptions(effort=effort, equalization=False)) == "nowhere"


def test_every_effort_switches_on_known_corrections_and_each_switch_overrules_it() -> None:
    for effort in EFFORTS:
        names = {c.name for c in wanted_corrections(CorrectionOptions(effort=effort))}
        assert names <= CORRECTIONS.keys()
        for name in CORRECTIONS:
            for value in (True, False):
                own = {c.name for c in wanted_corrections(CorrectionOptions(effort=effort, **{name: value}))}
                assert own == (names | {name} if value else names - {name})
