"""Calibration that was interrupted goes on to the very result of one that wasn't, or says why it can't."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import pipeline
from pipeline.config.options import CalibrateOptions
from pipeline.errors import OptionError, SampleError
from pipeline.ir.dataflow import Dataflow, constant
from pipeline.ir.program import Program
from pipeline.quantization import resuming
from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.resuming import CalibrationState, StoredArray
from pipeline.quantization.sharded import collect_with
from pipeline.scale_out import ThisProcess
from tests.models import import_test_model, small_network

random = np.random.default_rng(0)
SAMPLES = [random.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(21)]


@pytest.fixture(autouse=True)
def _saved_after_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "SECONDS_BETWEEN_SAVES", 0)


@pytest.fixture(scope="module")
def program() -> Program:
    return import_test_model(small_network())


def interrupted_after(count: int) -> Callable[[], Iterator[np.ndarray]]:
    def generate() -> Iterator[np.ndarray]:
        yield from SAMPLES[:count]
        raise KeyboardInterrupt

    return generate


def interrupt(program: Program, path: Path, count: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        pipeline.quantize(program, interrupted_after(count), resume=path, **options)


def constants(program: Program) -> list[np.ndarray]:
    values = (constant(a) for b in Dataflow.of(program.module).bindings for a in getattr(b.value, "args", ()))
    return [value for value in values if value is not None]


@pytest.mark.parametrize(
    ("count", "options"), [(6, {}), (18, {"algorithm": "avg"}), (21, {"effort": "none"})], ids=["all", "avg", "table"]
)
def test_a_run_that_goes_on_gives_the_same(
    count: int, options: dict[str, Any], program: Program, tmp_path: Path
) -> None:
    expected = pipeline.quantize(program, SAMPLES, **options)
    interrupt(program, tmp_path / "state", count, **options)
    done: list[int] = []
    found = pipeline.quantize(program, SAMPLES, resume=tmp_path / "state", progress=done.append, **options)
    assert done == list(range(count + 1, len(SAMPLES) + 1))
    assert found.table.to_json() == expected.table.to_json()
    assert found.corrections == expected.corrections
    for a, b in zip(constants(found.program), constants(expected.program), strict=True):
        np.testing.assert_array_equal(a, b)


def test_warnings_of_samples_are_of_all_of_them(
    program: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(program, tmp_path / "state", 4, effort="none")
    caplog.clear()
    pipeline.quantize(program, SAMPLES, resume=tmp_path / "state", effort="none")
    assert "Calibrated with 21 samples only" in caplog.text


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (SAMPLES, {"algorithm": "kl"}, "made with another choice of tensors, algorithms or corrections"),
        (SAMPLES, {"effort": "balanced"}, "made with another choice of tensors, algorithms or corrections"),
        (SAMPLES, {"hold_back": 0.25}, "made with another --hold-back"),
        ([*SAMPLES[:2], -SAMPLES[2], *SAMPLES[3:]], {}, "other samples than those up to sample 4"),
        (SAMPLES[:4], {}, "is of 5 batches, and there are only 4 now"),
        ([SAMPLES[0][:, :2]], {}, "shape"),
    ],
)
def test_a_state_of_something_else_is_refused(
    samples: list[np.ndarray], options: dict[str, Any], message: str, program: Program, tmp_path: Path
) -> None:
    interrupt(program, tmp_path / "state", 5, effort="none")
    with pytest.raises((OptionError, SampleError), match=message):
        pipeline.quantize(program, samples, **{"effort": "none", "resume": tmp_path / "state"} | options)


def test_a_state_of_another_model_is_refused(program: Program, tmp_path: Path) -> None:
    interrupt(program, tmp_path / "state", 5, effort="none")
    changed = replace(program, source_sha256="1" * 64)
    with pytest.raises(OptionError, match=r"made with another model\. Delete it"):
        pipeline.quantize(changed, SAMPLES, effort="none", resume=tmp_path / "state")


def with_states(state: CalibrationState, change: Callable[[dict[str, StoredArray]], None]) -> bytes:
    states = [dict(own) for own in state.states]
    change(states[0])
    return msgspec.msgpack.encode(msgspec.structs.replace(state, states=tuple(states)))


def test_damaged_states_are_refused(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "state"
    interrupt(program, path, 3, effort="none", algorithm="kl")
    data = path.read_bytes()
    state = msgspec.msgpack.decode(data, type=CalibrationState)
    many = 2**40

    def larger(own: dict[str, StoredArray]) -> None:
        own["signed_counts"] = StoredArray(dtype="<i8", shape=(many,), data=own["signed_counts"].data)

    def fewer(own: dict[str, StoredArray]) -> None:
        own["signed_counts"] = StoredArray.of(np.zeros(4, "int64"))

    def objects(own: dict[str, StoredArray]) -> None:
        own["signed_counts"] = StoredArray(dtype="|O", shape=(1,), data=bytes(8))

    def missing(own: dict[str, StoredArray]) -> None:
        del own["zeros"]

    damaged = [b"", b"PK", data[:-1], data + b"x", msgspec.msgpack.encode({"batches": 3})]
    damaged += [with_states(state, change) for change in (larger, fewer, objects, missing)]
    damaged += [msgspec.msgpack.encode(msgspec.structs.replace(state, states=state.states[1:]))]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(OptionError, match=r"damaged|isn't the state of a calibration"):
            pipeline.quantize(program, SAMPLES, effort="none", algorithm="kl", resume=path)


def test_too_large_files_are_not_read(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(program, tmp_path / "state", 3, effort="none")
    monkeypatch.setattr(resuming, "MAX_BYTES", 100)
    with pytest.raises(OptionError, match="more than 100 bytes"):
        pipeline.quantize(program, SAMPLES, effort="none", resume=tmp_path / "state")


@pytest.mark.parametrize("limit", [1.0, 3.0, np.nan, np.inf, -4.0])
def test_histograms_refuse_limits_that_they_could_not_have(limit: float) -> None:
    histogram = Histogram()
    histogram.update(np.array([-1.5, 0.5], "float32"))
    state = histogram.state()
    Histogram().restore(state)
    with pytest.raises(ValueError, match="the limit is"):
        Histogram().restore(state | {"range": np.array([limit, -1.5, 0.5])})


def test_workers_are_refused(program: Program, tmp_path: Path) -> None:
    class Elsewhere(ThisProcess):
        remote = True

    with pytest.raises(OptionError, match="--workers"):
        collect_with(Elsewhere(), program, {}, (), SAMPLES, CalibrateOptions(resume=tmp_path / "state"))
