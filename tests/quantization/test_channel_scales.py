"""Scales for each channel of tensors that only depthwise convolutions read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.api import Quantized, quantize
from pipeline.compiler.execute import Executor
from pipeline.errors import TableError
from pipeline.ir.program import Program
from pipeline.quantization import channel_scales
from pipeline.quantization.annotate import annotate
from pipeline.quantization.calibrate import CalibrationTable, calibrate
from pipeline.quantization.realize import realize
from pipeline.quantization.statistics import is_held_back
from pipeline.quantization.table import Calibrated
from pipeline.reference import execute, execute_all
from tests.exporter.stepwise import compare_stepwise
from tests.models import ModelBuilder, import_test_model

CHANNELS = 8
WIDTHS = 2.0 ** -np.arange(CHANNELS)
"""Of the channels of tensors in front of depthwise convolutions, which make up for them."""

SHAPE = (1, 3, 10, 12)

Nodes = Callable[[ModelBuilder, str], str]


def constant(b: ModelBuilder, *shape: int, rows: np.ndarray | None = None) -> str:
    value = np.random.default_rng((1, *shape)).standard_normal(shape)
    return b.constant((value if rows is None else value * rows.reshape(-1, *(1,) * (len(shape) - 1))).astype("float32"))


def relu6(b: ModelBuilder, x: str) -> str:
    return b.node("Clip", x, b.constant(np.float32(0)), b.constant(np.float32(6)))


def network(between: Nodes, multiplier: int = 1, also_read_by: Nodes | None = None) -> Program:
    """Return a convolution with channels of very different widths, something, and a depthwise and a last one."""
    b = ModelBuilder()
    first = between(
        b, b.node("Conv", "x", constant(b, CHANNELS, 3, 1, 1, rows=4 * WIDTHS), constant(b, CHANNELS, rows=4 * WIDTHS))
    )
    outputs = CHANNELS * multiplier
    second = b.node(
        "Conv",
        first,
        constant(b, outputs, 1, 3, 3, rows=np.repeat(1 / WIDTHS, multiplier)),
        constant(b, outputs),
        group=CHANNELS,
        pads=[1] * 4,
        strides=[2, 2],
    )
    y = b.node("Conv", b.node("Relu", second), constant(b, 4, outputs, 1, 1), name="y")
    if also_read_by is not None:
        y = b.node("Concat", y, also_read_by(b, first), axis=1)
    return import_test_model(b.model({"x": SHAPE}, y))


def feeds(count: int = 16) -> list[dict[str, np.ndarray]]:
    own = np.random.default_rng(1)
    return [{"x": own.standard_normal(SHAPE).astype("float32")} for _ in range(count)]


NETWORKS: dict[str, Callable[[], Program]] = {
    "nothing between": lambda: network(lambda _, x: x),
    "ReLU": lambda: network(lambda b, x: b.node("Relu", x)),
    "hard-swish": lambda: network(lambda b, x: b.node("HardSwish", x)),
    "ReLU6": lambda: network(relu6),
    "two outputs for each channel": lambda: network(relu6, multiplier=2),
}


def quantized(program: Program, per_channel: bool = True) -> Quantized:
    return quantize(program, feeds(), effort="none", per_channel_activations=per_channel)


@functools.cache
def limited() -> tuple[Program, Quantized]:
    """Return a program with a ReLU6, and what is made of it."""
    program = network(relu6)
    return program, quantized(program)


def noise(program: Program, int8: Program) -> float:
    expected, actual = (np.concatenate([execute(p, f)["y"] for f in feeds(4)]) for p in (program, int8))
    return float(np.square(expected - actual).mean())


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_quiet_channels_are_not_lost_beside_loud_ones(make: Callable[[], Program]) -> None:
    program = make()
    plain, scaled = quantized(program, per_channel=False), quantized(program)
    assert [o.kept for o in scaled.corrections] == [True]
    assert noise(program, scaled.program) < noise(program, plain.program) / 5
    # Compiled, and exported, it computes the same.
    feed = feeds(2)[1]
    np.testing.assert_array_equal(Executor(scaled.program).run(feed)["y"], execute(scaled.program, feed)["y"])
    for tensor in compare_stepwise(scaled, feed):
        assert tensor.steps <= 1, tensor


def test_each_channel_has_the_scale_of_its_own_range() -> None:
    program, found = limited()
    (name,) = channel_scales.tensors_with_channel_scales(found.annotation)
    seen = np.zeros(CHANNELS)
    for number, feed in enumerate(feeds()):
        values = {str(v.name): value for v, value in execute_all(program, feed).items()}
        if not is_held_back(number):
            seen = np.maximum(seen, values[name].reshape(-1, CHANNELS).max(axis=0))
    entry = found.table.tensors[name]
    np.testing.assert_allclose(entry.channel_scales, np.minimum(1.5 * seen, 6) / 255, rtol=1e-6)
    assert (entry.zero_point, entry.scale) == (0, max(entry.parameters.channel_scales))


NOT_POSSIBLE: dict[str, Callable[[], Program]] = {
    "a table between": lambda: network(lambda b, x: b.node("Sigmoid", x)),
    "limits within the range": lambda: network(
        lambda b, x: b.node("Clip", x, b.constant(np.float32(-1)), b.constant(np.float32(1)))
    ),
    "another reader": lambda: network(
        relu6, also_read_by=lambda b, x: b.node("Conv", x, constant(b, 4, CHANNELS, 1, 1), strides=[2, 2])
    ),
}


@pytest.mark.parametrize("make", NOT_POSSIBLE.values(), ids=NOT_POSSIBLE.keys())
def test_other_tensors_have_one_scale(make: Callable[[], Program]) -> None:
    program = make()
    assert channel_scales.places(program, annotate(program)) == {}


def test_what_does_not_help_held_back_samples_is_dropped() -> None:
    # All samples that are held back are louder, in channels that are quiet in others.
    program = network(lambda b, x: b.node("Relu", x))
    loud = [{"x": f["x"] * (4 if is_held_back(i) else 1)} for i, f in enumerate(feeds())]
    found = quantize(program, loud, effort="none", per_channel_activations=True, algorithm="abs_max")
    assert [o.kept for o in found.corrections] == [False]
    assert channel_scales.tensors_with_channel_scales(found.annotation) == ()


def test_a_table_gives_the_same_model_again(tmp_path: Path) -> None:
    program, found = limited()
    found.table.save(tmp_path / "table.json")
    again = quantize(program, table=CalibrationTable.load(tmp_path / "table.json"))
    assert again.program.module.script() == found.program.module.script()
    assert again.annotation == found.annotation


def test_an_annotation_can_ask_for_it() -> None:
    program, found = limited()
    (name,) = channel_scales.tensors_with_channel_scales(found.annotation)
    again = quantize(program, feeds(), annotation=found.annotation, effort="none")
    assert again.table.tensors[name] == found.table.tensors[name]


def test_a_layer_that_stays_in_float_leaves_one_scale(caplog: pytest.LogCaptureFixture) -> None:
    program, found = limited()
    (name,) = channel_scales.tensors_with_channel_scales(found.annotation)
    reader = channel_scales.places(program, found.annotation)[name].readers[0]
    again = quantize(program, table=found.table, skip=[str(reader.var.name)])
    assert channel_scales.tensors_with_channel_scales(again.annotation) == ()
    assert noise(program, again.program) < 0.2
    assert f"Tensor {name!r} has one scale" in caplog.text


@pytest.mark.parametrize("left", ["producer", "reader"])
def test_float_operators_read_and_write_channels_with_scales(left: str) -> None:
    # With sums that could exceed 32 bits, realization leaves a layer in float.
    program = network(lambda b, x: b.node("Relu", x))
    found = quantized(program)
    (name,) = channel_scales.tensors_with_channel_scales(found.annotation)
    reader = channel_scales.places(program, found.annotation)[name].readers[0]
    left_in_float = name if left == "producer" else str(reader.var.name)
    entry = found.table.tensors[left_in_float]
    tiny = [s * 1e-12 for s in entry.parameters.channel_scales or (entry.scale,)]
    changed = replace(entry, scale=max(tiny), channel_scales=tuple(tiny) if len(tiny) > 1 else ())
    table = replace(found.table, tensors={**found.table.tensors, left_in_float: changed})
    int8, done = realize(program, found.annotation, table, warn=False)
    assert left_in_float in {o.name for o in done.operators if o.precision == "float32"}
    feed = feeds(1)[0]
    np.testing.assert_array_equal(Executor(int8).run(feed)["y"], execute(int8, feed)["y"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda e: replace(e, channel_scales=e.channel_scales[:-1], scale=max(e.channel_scales[:-1])),
            "7 channel_scales",
        ),
        (lambda e: replace(e, channel_scales=()), "one scale for tensor"),
        (lambda e: replace(e, channel_scales=(1.0, *e.channel_scales[1:]), scale=1.0), "is limited to 6"),
    ],
    ids=["channels", "one scale", "limit"],
)
def test_tables_that_do_not_fit_are_refused(change: Callable[[Calibrated], Calibrated], message: str) -> None:
    program, found = limited()
    (name,) = channel_scales.tensors_with_channel_scales(found.annotation)
    table = replace(found.table, tensors={**found.table.tensors, name: change(found.table.tensors[name])})
    with pytest.raises(TableError, match=message):
        realize(program, found.annotation, table)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channel_scales": [-1.0, 2.0]}, "channel_scales"),
        ({"channel_scales": ["1", 2.0]}, "channel_scales"),
        ({"channel_scales": [1e-31, 2.0]}, "channel_scales"),
        ({"channel_scales": [1.0, 1.5]}, "scale isn't the largest of channel_scales"),
        ({"channel_scales": [1.0, 2.0], "dtype": "int16", "zero_point": 0}, "16 bits have one scale"),
    ],
    ids=["negative", "text", "tiny", "largest", "16 bits"],
)
def test_malformed_tables_are_refused(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    _, found = limited()
    (name,) = channel_scales.tensors_with_channel_scales(found.annotation)
    table = json.loads(found.table.to_json())
    table["tensors"][name] |= {"scale": 2.0} | fields
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    with pytest.raises(TableError, match=message):
        CalibrationTable.load(path)


def test_annotations_that_ask_for_the_impossible_are_refused() -> None:
    program = network(lambda b, x: b.node("Sigmoid", x))
    annotation = annotate(program)
    wanted = channel_scales.with_channel_scales(annotation, [t.name for t in annotation.tensors])
    with pytest.raises(TableError, match="can't have a scale for each channel"):
        calibrate(program, wanted, feeds())
