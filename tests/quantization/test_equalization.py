"""Channels that are evened out: the float function stays as it is, bit for bit, and one scale fits them better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm_ffi
from msgspec.structs import replace

from pipeline.config.options import AnnotateOptions, CalibrateOptions, CorrectionOptions, QuantizeOptions
from pipeline.errors import TableError
from pipeline.ir.program import Program
from pipeline.quantization import equalization
from pipeline.quantization.annotate import annotate
from pipeline.quantization.calibrate import CalibrationTable
from pipeline.quantization.sharded import collect_with
from pipeline.quantization.state import State
from pipeline.quantization.statistics import ChannelMaxima
from pipeline.quantization.steps import run, steps
from pipeline.reference import execute, execute_all
from pipeline.scale_out import ThisProcess
from tests.models import ModelBuilder, import_test_model

CHANNELS = 8
WIDTHS = 2.0 ** np.arange(CHANNELS) / 2.0**4
"""Of the channels of tensors that are to be evened out."""

only_equalization = QuantizeOptions(corrections=CorrectionOptions(effort="none", equalization=True))


def constant(b: ModelBuilder, *shape: int, rows: np.ndarray | None = None) -> str:
    value = np.random.default_rng((1, *shape)).standard_normal(shape)
    return b.constant((value if rows is None else value * rows.reshape(-1, *(1,) * (len(shape) - 1))).astype("float32"))


def convolutions(reader_groups: int, between: Callable[[ModelBuilder, str], str]) -> Program:
    """Return a convolution with channels of very different widths, something, and a convolution in groups."""
    b = ModelBuilder()
    first = b.node(
        "Conv", "x", constant(b, CHANNELS, 3, 1, 1, rows=WIDTHS), constant(b, CHANNELS, rows=WIDTHS), name="t"
    )
    # A depthwise reader makes up for the widths, so that all channels count.
    rows = 1 / WIDTHS if reader_groups == CHANNELS else None
    weights = constant(b, CHANNELS, CHANNELS // reader_groups, 3, 3, rows=rows), constant(b, CHANNELS)
    y = b.node("Conv", between(b, first), *weights, group=reader_groups, pads=[1] * 4, name="y")
    return import_test_model(b.model({"x": (1, 3, 6, 6)}, y))


def relu(b: ModelBuilder, x: str) -> str:
    return b.node("Relu", x)


def layer_normalization() -> Program:
    """Return a dense layer behind a layer normalization that has channels of very different widths."""
    b = ModelBuilder()
    normalized = b.node("LayerNormalization", "x", constant(b, CHANNELS, rows=WIDTHS), constant(b, CHANNELS), name="t")
    first, second = (b.node("MatMul", normalized, constant(b, CHANNELS, 5)) for _ in range(2))
    return import_test_model(b.model({"x": (1, 4, CHANNELS)}, b.node("Add", first, second, name="y")))


def residual_block() -> Program:
    """Return two dense layers behind a layer normalization, whose result is added to theirs."""
    b = ModelBuilder()
    normalized = b.node("LayerNormalization", "x", constant(b, CHANNELS, rows=WIDTHS), constant(b, CHANNELS), name="t")
    first, second = (b.node("MatMul", normalized, constant(b, CHANNELS, CHANNELS)) for _ in range(2))
    return import_test_model(
        b.model({"x": (1, 4, CHANNELS)}, b.node("Add", b.node("Mul", first, second), normalized, name="y"))
    )


def root_mean_square_normalization() -> Program:
    """Return a dense layer behind a division by the root of the mean square, and a factor for each channel."""
    b = ModelBuilder()
    mean = b.node("ReduceMean", b.node("Mul", "x", "x"), axes=[-1])
    divided = b.node("Div", "x", b.node("Sqrt", b.node("Add", mean, b.constant(np.float32(1e-5)))))
    normalized = b.node("Mul", divided, constant(b, CHANNELS, rows=WIDTHS), name="t")
    y = b.node("Add", b.node("MatMul", normalized, constant(b, CHANNELS, CHANNELS)), normalized, name="y")
    return import_test_model(b.model({"x": (1, 4, CHANNELS)}, y))


PROGRAMS = {
    "depthwise": lambda: convolutions(CHANNELS, relu),
    "groups": lambda: convolutions(2, relu),
    "nothing between": lambda: convolutions(1, lambda _, x: x),
    "layer normalization": layer_normalization,
    "residual block": residual_block,
    "root mean square normalization": root_mean_square_normalization,
}


def feeds(program: Program, count: int = 12) -> list[dict[str, np.ndarray]]:
    own = np.random.default_rng(1)
    shape = program.inputs[0].shape
    return [{"x": own.standard_normal(shape).astype("float32")} for _ in range(count)]


def chosen(program: Program) -> dict[str, tuple[int, ...]]:
    annotation = annotate(program)
    needs = equalization.needs(program, annotation)
    statistics = collect_with(ThisProcess(), program, {}, needs, feeds(program), CalibrateOptions()).statistics
    return equalization.choose_exponents(program, annotation, statistics)


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_the_float_function_does_not_change_by_a_bit(make: Callable[[], Program]) -> None:
    program = make()
    exponents = chosen(program)
    assert len(exponents) == 1
    other = equalization.equalized(program, annotate(program), exponents)
    for feed in feeds(program):
        np.testing.assert_array_equal(execute(other, feed)["y"], execute(program, feed)["y"])


@pytest.mark.filterwarnings("error")
def test_channels_that_are_zero_keep_their_scale_without_a_warning() -> None:
    b, widths = ModelBuilder(), np.where(np.arange(CHANNELS) == 3, 0, WIDTHS)
    normalized = b.node(
        "LayerNormalization", "x", constant(b, CHANNELS, rows=widths), constant(b, CHANNELS, rows=widths)
    )
    unread = b.node("MatMul", normalized, constant(b, CHANNELS, 5, rows=np.arange(CHANNELS) > 0), name="y")
    (exponents,) = chosen(import_test_model(b.model({"x": (1, 4, CHANNELS)}, unread))).values()
    assert any(exponents)
    assert (exponents[0], exponents[3]) == (0, 0)


def test_channels_that_depthwise_layers_read_become_equally_wide() -> None:
    program = convolutions(CHANNELS, relu)
    other = equalization.equalized(program, annotate(program), exponents := chosen(program))
    (name,) = exponents
    maxima = ChannelMaxima()
    for feed in feeds(program):
        values = {str(v.name): value for v, value in execute_all(other, feed).items()}
        maxima.update(values[name])
    assert maxima.maxima.max() <= 2 * maxima.maxima.min() * (1 + 1e-6)


@pytest.mark.parametrize(
    "between",
    [
        lambda b, x: b.node("Clip", x, b.constant(np.float32(0)), b.constant(np.float32(6))),
        lambda b, x: b.node("HardSwish", x),
        lambda b, x: b.node("Add", b.node("Relu", x), x),
    ],
    ids=["ReLU6", "HardSwish", "residual"],
)
def test_what_is_not_homogeneous_or_read_by_others_stays(between: Callable[[ModelBuilder, str], str]) -> None:
    program = convolutions(CHANNELS, between)
    assert equalization.places(program, annotate(program)) == ()


def quantized(program: Program, options: QuantizeOptions, **given: Any) -> State:
    return run(program, steps(feeds(program), options, **given))


@pytest.mark.parametrize("make", [PROGRAMS["depthwise"], PROGRAMS["residual block"]], ids=["depthwise", "dense"])
def test_int8_comes_nearer_to_float_and_the_table_says_by_what(make: Callable[[], Program]) -> None:
    program = make()
    state = quantized(program, only_equalization)
    (outcome,) = state.corrections
    assert (outcome.name, outcome.kept) == ("equalization", True)
    assert outcome.before_db is not None
    assert outcome.after_db is not None
    assert outcome.after_db > outcome.before_db + 3
    assert state.calibrated().equalization == chosen(program)


@pytest.mark.parametrize("exponent", [0, -2, -5])
def test_the_expected_error_of_a_layer_is_what_it_really_has(exponent: int) -> None:
    own = np.random.default_rng(3)
    widths, factors = np.where(np.arange(64) % 16, 1, 20.0), np.where(np.arange(64) % 16, 2.0**exponent, 1)
    x, weight = own.uniform(-1, 1, (4000, 64)) * widths, own.uniform(-1, 1, (32, 64))
    step = 2 * np.abs(x / factors).max() / 255
    steps = np.abs(weight * factors).max(axis=1, keepdims=True) / 127
    rounded = np.rint(x / factors / step) * step @ (np.rint(weight * factors / steps) * steps).T
    real = ((rounded - x @ weight.T) ** 2).sum() / ((x @ weight.T) ** 2).sum()
    found = equalization.relative_error(weight.T[None, :, :, None], np.abs(x).max(axis=0), (x**2).mean(axis=0), factors)
    assert 0.8 < found / real < 1.25


def test_a_table_with_equalization_gives_the_same_model_again() -> None:
    program = convolutions(CHANNELS, relu)
    state = quantized(program, only_equalization)
    plain = QuantizeOptions(corrections=CorrectionOptions(effort="none"))
    again = run(program, steps(None, plain, table=state.calibrated()))
    assert tvm_ffi.structural_equal(again.program.module, state.program.module, map_free_vars=True)


def test_tables_without_equalization_do_not_mention_it() -> None:
    program = convolutions(CHANNELS, relu)
    table = quantized(program, QuantizeOptions(corrections=CorrectionOptions(effort="none"))).calibrated()
    assert "equalization" not in table.to_json()


@pytest.mark.parametrize(
    ("exponents", "message"),
    [
        ({"else": (0,)}, "Unknown tensor that can be equalized 'else'"),
        ({"t": (1, 2)}, "has 8 channels, and 2 exponents"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(exponents: dict[str, tuple[int, ...]], message: str) -> None:
    program = convolutions(CHANNELS, lambda _, x: x)
    table = quantized(program, only_equalization).calibrated()
    with pytest.raises(TableError, match=message):
        run(program, steps(None, only_equalization, table=replace(table, equalization=exponents)))


def test_a_table_is_read_as_it_was_written(tmp_path: Any) -> None:
    table = quantized(convolutions(CHANNELS, relu), only_equalization).calibrated()
    table.save(tmp_path / "table.json")
    assert CalibrationTable.load(tmp_path / "table.json") == table


@pytest.mark.parametrize(("name", "evened"), [("residual block", True), ("depthwise", False)])
def test_by_default_only_tensors_behind_normalizations_are_evened_out(name: str, evened: bool) -> None:
    outcomes = quantized(PROGRAMS[name](), QuantizeOptions()).corrections
    assert [o.kept for o in outcomes if o.name == "equalization"] == [True] * evened


def test_samples_that_can_be_read_once_only_are_not_enough() -> None:
    program = convolutions(CHANNELS, relu)
    (outcome,) = run(program, steps(iter(feeds(program)), only_equalization)).corrections
    assert (outcome.kept, outcome.note) == (False, "it reads the samples more than once, and they are an iterator")


def test_a_model_without_such_tensors_says_so() -> None:
    b = ModelBuilder()
    program = import_test_model(b.model({"x": (1, 3, 6, 6)}, b.node("Conv", "x", constant(b, 4, 3, 1, 1), name="y")))
    (outcome,) = quantized(program, only_equalization).corrections
    assert not outcome.kept
    assert outcome.note.startswith("no tensor stands between layers alone")


def test_annotations_that_are_given_count() -> None:
    program = convolutions(CHANNELS, relu)
    annotation = annotate(program, AnnotateOptions(skip=("y",)))
    assert equalization.places(program, annotation) == ()
