"""Wide channels between two dense layers that get a scale of their own: the float function stays, int8 comes nearer."""

from __future__ import annotations

import numpy as np
import pytest
import tvm_ffi
from msgspec.structs import replace

from pipeline.config.options import CorrectionOptions, ModelOptions, QuantizeOptions
from pipeline.errors import TableError
from pipeline.ir.program import Program
from pipeline.quantization import wide_channels
from pipeline.quantization.annotate import annotate
from pipeline.quantization.selection import select
from pipeline.quantization.state import State
from pipeline.quantization.steps import run, steps
from pipeline.reference import execute
from pipeline.workflow.quantizing import annotated
from tests.models import ModelBuilder, import_test_model

CHANNELS, WIDE = 96, (5, 40)

only_equalization = QuantizeOptions(corrections=CorrectionOptions(effort="none", equalization=True))
nothing = QuantizeOptions(corrections=CorrectionOptions(effort="none"))


def block(function: str = "HardSwish", last: str = "Softmax") -> Program:
    """Return two dense layers with a function between them, two channels of which are wide, and a last operator."""
    own, b = np.random.default_rng(1), ModelBuilder()
    rows = np.ones(CHANNELS)
    rows[list(WIDE)] = 40
    first = b.constant((own.standard_normal((8, CHANNELS)) * rows).astype("float32"))
    second = b.constant((own.standard_normal((CHANNELS, 8)) / rows[:, None]).astype("float32"))
    inner = b.node(function, b.node("MatMul", "x", first, name="first"), name="inner")
    return import_test_model(b.model({"x": (1, 4, 8)}, b.node(last, b.node("MatMul", inner, second), name="y")))


def feeds() -> list[dict[str, np.ndarray]]:
    own = np.random.default_rng(2)
    return [{"x": own.standard_normal((1, 4, 8)).astype("float32")} for _ in range(12)]


@pytest.fixture(scope="module")
def state() -> State:
    return run(block(), steps(feeds(), only_equalization))


@pytest.mark.parametrize("function", ["HardSwish", "Relu", "Identity"])
def test_the_float_function_stays(function: str) -> None:
    program = block(function)
    annotation = annotate(program)
    (chain,) = wide_channels.chains(program, annotation)
    other, _ = wide_channels.set_apart(program, annotation, {chain.tensor: WIDE})
    for feed in feeds():
        np.testing.assert_allclose(execute(other, feed)["y"], execute(program, feed)["y"], rtol=0, atol=1e-6)


def test_the_widest_channels_are_set_apart_and_int8_comes_nearer(state: State) -> None:
    (outcome,) = state.corrections
    assert outcome.before_db is not None
    assert outcome.after_db is not None
    assert outcome.after_db > outcome.before_db + 6
    ((_, channels),) = dict(state.calibrated().wide_channels or {}).items()
    assert set(WIDE) < set(channels)
    assert len(channels) == min(wide_channels.COUNTS)


def test_table_and_annotation_give_the_same_model_again(state: State) -> None:
    again = run(block(), steps(None, nothing, annotation=state.annotation, table=state.calibrated()))
    assert tvm_ffi.structural_equal(again.program.module, state.program.module, map_free_vars=True)


def test_what_is_known_of_parts_can_be_said_of_the_model(state: State) -> None:
    program = block()
    assert annotated(program, state.annotation, ModelOptions()) == annotate(program)
    assert select(program, ["inner.wide"], "an option") == {"inner"}


def test_channels_that_are_alike_stay_together() -> None:
    b, own = ModelBuilder(), np.random.default_rng(1)
    first, second = (b.constant(own.standard_normal(s).astype("float32")) for s in ((8, CHANNELS), (CHANNELS, 8)))
    y = b.node("Softmax", b.node("MatMul", b.node("HardSwish", b.node("MatMul", "x", first)), second), name="y")
    (outcome,) = run(import_test_model(b.model({"x": (1, 4, 8)}, y)), steps(feeds(), only_equalization)).corrections
    assert outcome.note == "the channels are even already"


def test_a_layer_whose_result_is_read_in_int8_stays_whole() -> None:
    b, own = ModelBuilder(), np.random.default_rng(1)
    x = "x"
    for shape in ((8, CHANNELS), (CHANNELS, 8), (8, 4)):
        x = b.node("HardSwish", b.node("MatMul", x, b.constant(own.standard_normal(shape).astype("float32"))))
    program = import_test_model(b.model({"x": (1, 4, 8)}, x))
    (chain,) = wide_channels.chains(program, annotate(program))
    assert chain.second_weight.shape == (4, 8)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"else": (0,)}, "Unknown tensor between two dense layers 'else'"),
        ({"inner": (1, CHANNELS)}, "has 96 channels; some of these are needed, in order"),
        ({"inner": ()}, "has 96 channels; some of these are needed, in order"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(
    state: State, channels: dict[str, tuple[int, ...]], message: str
) -> None:
    table = replace(state.calibrated(), wide_channels=channels)
    with pytest.raises(TableError, match=message):
        run(block(), steps(None, nothing, table=table))
