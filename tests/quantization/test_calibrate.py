"""From samples to a table, and from a table to its file and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.config.options import AnnotateOptions
from pipeline.errors import SampleError, TableError
from pipeline.ir.program import Program
from pipeline.quantization import collect
from pipeline.quantization.annotate import Annotation, annotate
from pipeline.quantization.calibrate import CalibrateOptions, CalibrationTable, calibrate
from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.spec import ObserverSpec
from tests.models import ModelBuilder, import_test_model, small_network


def samples(count: int = 4) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.standard_normal((1, 3, 12, 12)).astype("float32")


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    program = import_test_model(small_network())
    return calibrate(program, annotate(program), samples)


def test_every_tensor_that_needs_a_scale_gets_one(table: CalibrationTable) -> None:
    program = import_test_model(small_network())
    assert list(table.tensors) == [t.name for t in annotate(program).calibrated()]
    assert table.samples == 4


def test_the_table_says_which_algorithm_auto_chose(table: CalibrationTable) -> None:
    assert {entry.algorithm for entry in table.tensors.values()} <= {"kl", "mse"}


def test_the_range_seen_is_that_of_the_data(table: CalibrationTable) -> None:
    everything = np.concatenate(list(samples()))
    entry = next(iter(table.tensors.values()))
    assert (entry.minimum, entry.maximum) == (everything.min(), everything.max())


def test_the_same_samples_give_the_same_table(table: CalibrationTable) -> None:
    program = import_test_model(small_network())
    assert calibrate(program, annotate(program), samples) == table


def test_the_order_of_samples_and_their_number_in_a_batch_do_not_matter(table: CalibrationTable) -> None:
    program = import_test_model(small_network())
    found = calibrate(program, annotate(program), list(samples())[::-1], CalibrateOptions(batch_size=2))
    assert found == table


@pytest.mark.parametrize("cores", [1, 2])
def test_batches_that_are_run_at_once_are_seen_in_order(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(collect, "most_sharers", lambda: cores)
    program = import_test_model(small_network())
    larger = [x * np.float32(2**i) for i, x in enumerate(samples(20))]
    found = calibrate(program, annotate(program), larger, CalibrateOptions(algorithm="moving_average"))
    shares = 0.9 ** np.arange(20)[::-1]
    low, high = (shares @ [end(x) for x in larger] / shares.sum() for end in (np.min, np.max))
    assert next(iter(found.tensors.values())).threshold == pytest.approx(max(-low, high))


def test_calibrating_again_needs_no_more_threads() -> None:
    program, counts = import_test_model(small_network()), []
    for _ in range(4):
        calibrate(program, annotate(program), samples)
        counts.append(len(list(Path("/proc/self/task").iterdir())))
    assert counts[1:] == counts[:1] * 3


def test_a_generator_may_yield_the_same_memory_again(table: CalibrationTable) -> None:
    program, memory = import_test_model(small_network()), np.empty((1, 3, 12, 12), "float32")

    def generate() -> Iterator[np.ndarray]:
        for sample in samples():
            memory[...] = sample
            yield memory

    assert calibrate(program, annotate(program), generate) == table


def test_the_first_batch_that_overflows_is_told() -> None:
    b = ModelBuilder()
    y = b.node("Conv", b.node("Log", "x"), b.constant(np.ones((2, 3, 2, 2), "float32")))
    program = import_test_model(b.model({"x": (1, 3, 4, 4)}, y))
    given, counted = [np.full((1, 3, 4, 4), float(i < 5), "float32") for i in range(9)], list[int]()
    with pytest.raises(SampleError, match="is NaN or infinite for sample 5"):
        calibrate(program, annotate(program), given, progress=counted.append)
    assert counted == [1, 2, 3, 4, 5]


def test_abs_max_covers_what_was_seen() -> None:
    program = import_test_model(small_network())
    found = calibrate(program, annotate(program), samples, CalibrateOptions(algorithm="abs_max"))
    for entry in found.tensors.values():
        assert entry.threshold == max(abs(entry.minimum), abs(entry.maximum))


def test_a_model_that_overflows_is_an_error() -> None:
    b = ModelBuilder()
    weight = np.full((2, 3, 1, 1), 3e38, "float32")
    y = b.node("Conv", b.node("Conv", "x", b.constant(weight)), b.constant(np.ones((2, 2, 1, 1), "float32")))
    program = import_test_model(b.model({"x": (1, 3, 2, 2)}, y))
    with pytest.raises(SampleError, match="is NaN or infinite for sample 0"):
        calibrate(program, annotate(program), [np.full((1, 3, 2, 2), 9.0, "float32")])


def test_values_that_are_not_finite_are_told_by_the_models_own_name() -> None:
    b = ModelBuilder()
    y = b.node("Conv", b.node("Log", "x", name="logarithm"), b.constant(np.ones((2, 3, 2, 2), "float32")))
    program = import_test_model(b.model({"x": (1, 3, 4, 4)}, y))
    with pytest.raises(SampleError, match="Tensor 'logarithm' is NaN or infinite"):
        calibrate(program, annotate(program), [np.zeros((1, 3, 4, 4), "float32")])


def test_only_values_that_are_not_finite_are_blamed_on_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr(Histogram, "update", fail)
    program = import_test_model(small_network())
    with pytest.raises(ValueError, match="a bug of ours"):
        calibrate(program, annotate(program), samples)


def test_progress_counts_batches() -> None:
    program = import_test_model(small_network())
    counted: list[int] = []
    calibrate(program, annotate(program), samples, progress=counted.append)
    assert counted == [1, 2, 3, 4]


def test_a_table_survives_its_file(table: CalibrationTable, tmp_path: Path) -> None:
    table.save(tmp_path / "t.json")
    assert CalibrationTable.load(tmp_path / "t.json") == CalibrationTable.load(str(tmp_path / "t.json")) == table


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"scale"', '"skale"', "skale"),
        ('"scale": ', '"scala": ', r"scala: Unknown key 'scala'\. .*Did you mean 'scale'\?$"),
        ('"zero_point": ', '"zero_point": 9', "zero_point"),
        ('"schema_version": 1', '"schema_version": 2', "schema_version"),
        ('": 1', '" 1', "JSON"),
    ],
    ids=["unknown_key", "misspelled_key", "range", "version", "syntax"],
)
def test_a_table_that_does_not_fit_is_refused(
    table: CalibrationTable, tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "t.json"
    path.write_text(table.to_json().replace(old, new, 1).replace('"zero_point": 90', '"zero_point": 990', 1))
    with pytest.raises(TableError, match=message):
        CalibrationTable.load(path)


def test_a_tensor_that_is_too_large_for_its_scale_is_named() -> None:
    b = ModelBuilder()
    large, small = (b.constant(np.full((1, 1, 1, 1), v, "float32")) for v in (1e34, 1e-30))
    y = b.node("Conv", b.node("Conv", "x", large, name="large"), small, name="small")
    program = import_test_model(b.model({"x": (1, 1, 2, 2)}, y))
    samples = [np.ones((1, 1, 2, 2), "float32")]
    with pytest.raises(TableError, match=r"Tensor 'large' has values so large .* in float: --skip small\.$"):
        calibrate(program, annotate(program), samples)
    table = calibrate(program, annotate(program, AnnotateOptions(skip=("small",))), samples)
    assert "large" not in table.tensors


def scaled_twice(first: float) -> Program:
    """Return a program that multiplies x by `first`, and has another convolution after that."""
    b = ModelBuilder()
    weights = [b.constant(np.full((1, 1, 1, 1), v, "float32")) for v in (first, 1.0)]
    y = b.node("Conv", b.node("Conv", "x", weights[0], name="scaled"), weights[1])
    return import_test_model(b.model({"x": (1, 1, 2, 2)}, y))


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0.0, r"one value in all samples: .*scaled \(0\)"),
        (1e-33, r"so small that most become 0, .*: scaled \(1e-33\)"),
    ],
    ids=["zero", "tiny"],
)
def test_tensors_of_which_nothing_can_be_kept_are_named(
    factor: float, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    program = scaled_twice(factor)
    calibrate(program, annotate(program), [np.linspace(0, 1, 4, dtype="float32").reshape(1, 1, 2, 2)])
    assert any(re.search(message, text) for text in caplog.messages)


def test_a_tensor_that_is_constant_is_named(caplog: pytest.LogCaptureFixture) -> None:
    program = scaled_twice(1.0)
    calibrate(program, annotate(program), [np.full((1, 1, 2, 2), 3, "float32")])
    assert any("one value in all samples: x.permuted (3), scaled (3)" in text for text in caplog.messages)


def test_options_of_the_algorithm_reach_it() -> None:
    program = import_test_model(small_network())
    thresholds = []
    for kept in (0.5, 1.0):
        options = CalibrateOptions(algorithm="kl", algorithm_options={"kept": kept})
        found = calibrate(program, annotate(program), samples, options)
        thresholds.append([entry.threshold for entry in found.tensors.values()])
    assert thresholds[0] != thresholds[1]
    assert all(less <= more for less, more in zip(*thresholds, strict=True))


def edited(annotation: Annotation, name: str, **changes: object) -> Annotation:
    tensors = [replace(t, spec=replace(t.spec, **changes)) if t.name == name else t for t in annotation.tensors]
    return replace(annotation, tensors=tuple(tensors))


def test_what_the_annotation_says_of_a_tensor_comes_before_the_options(table: CalibrationTable) -> None:
    program = import_test_model(small_network())
    annotation = annotate(program)
    chosen = next(t.name for t in annotation.calibrated() if t.spec is not None and t.spec.signed)
    wanted = edited(annotation, chosen, symmetric=True, observer=ObserverSpec(algorithm="abs_max"))
    found = calibrate(program, wanted, samples)
    entry = found.tensors.pop(chosen)
    assert (entry.algorithm, entry.zero_point) == ("abs_max", 128)
    assert entry.threshold == max(abs(entry.minimum), abs(entry.maximum))
    assert found.tensors == {name: entry for name, entry in table.tensors.items() if name != chosen}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "uint16"}, "activations are uint8 or int16; uint16 isn't computed yet"),
        ({"dtype": "int16"}, "int16 is signed and symmetric"),
        (
            {"dtype": "int16", "symmetric": True, "granularity": "per_channel"},
            "int16 has one scale per tensor",
        ),
    ],
    ids=["uint16", "affine_int16", "int16_per_channel"],
)
def test_what_cannot_be_computed_yet_is_refused(changes: dict[str, object], message: str) -> None:
    program = import_test_model(small_network())
    annotation = annotate(program)
    name = annotation.calibrated()[0].name
    with pytest.raises(TableError, match=f"tensor '{name}' can't be quantized as it says: {message}"):
        calibrate(program, edited(annotation, name, **changes), samples)
