"""The profile of a library. No test asserts how long anything takes, only how times are reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

import pipeline
from pipeline.errors import ArtifactError, BuildError, OptionError, SampleError
from pipeline.ir.types import TensorType
from pipeline.library.metadata import read_metadata
from pipeline.profiling import OperatorProfile, Profile, limits, profile
from pipeline.profiling.limits import Limits
from pipeline.profiling.profile import _operators
from pipeline.runtime import local as runner_module
from pipeline.runtime.local import Runner
from pipeline.runtime.trace import KernelTime, Trace
from pipeline.targets import load_target
from tests.runtime.metadata import with_metadata
from tests.runtime.models import quantized_model, sample
from tests.runtime.test_local import LOADED, run_python

MODEL_TENSORS = ["r1", "s", "g", "logits", "probability"]
"""The tensors of the small model that kernels compute, in order; the compiler adds its own in between."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_model().build("host", tmp_path_factory.mktemp("profile") / "small.so")


@pytest.fixture(scope="module")
def measured(library: Path) -> Profile:
    return profile(library, sample(0), threads=1, repeats=3)


def test_every_operator_appears_once_and_in_order(library: Path, measured: Profile) -> None:
    records = read_metadata(library).operators
    assert [(o.name, o.kernel) for o in measured.operators] == [(r.name, r.kernel) for r in records]
    assert [o.name for o in measured.operators if o.name in MODEL_TENSORS] == MODEL_TENSORS


def test_times_are_positive_and_shares_add_up(measured: Profile) -> None:
    assert all(0 < o.minimum_us <= o.median_us for o in measured.operators)
    assert 0 < measured.operators_minimum_us <= measured.operators_median_us
    assert 0 < measured.run_minimum_us <= measured.run_median_us
    assert sum(o.share for o in measured.operators) == pytest.approx(1)
    assert sum(o.minimum_us for o in measured.operators) <= measured.operators_minimum_us * (1 + 1e-9)


def test_rates_follow_from_work_and_time(measured: Profile) -> None:
    assert measured.limits is not None
    for o in measured.operators:
        assert o.gmac_per_second == pytest.approx(o.multiply_adds / o.minimum_us * 1e-3)
        assert o.gbyte_per_second == pytest.approx(o.bytes / o.minimum_us * 1e-3)
    conv = next(o for o in measured.operators if o.name == "r1")
    assert conv.of_peak == pytest.approx(conv.gmac_per_second * 1e9 / measured.limits.int8)


def test_what_is_computed_in_float_is_named_with_the_reason(measured: Profile) -> None:
    notes = {o.name: o.note for o in measured.operators}
    assert "Computed in float32: nothing that reads it is int8." in notes["probability"]
    assert not any("float32" in notes[name] for name in ("r1", "s", "g", "logits"))


def test_a_float_library_has_no_float_islands(tmp_path: Path) -> None:
    path = pipeline.compile_program(quantized_model().source, load_target("host"), tmp_path / "float.so")
    result = profile(path, threads=1, repeats=1, limits=False)
    assert {o.name for o in result.operators} >= {"logits", "probability"}
    assert [o.note for o in result.operators] == [""] * len(result.operators)


def test_without_limits_nothing_is_compared(library: Path) -> None:
    result = profile(library, threads=1, repeats=1, limits=False)
    assert result.limits is None
    assert {(o.of_peak, o.of_limit) for o in result.operators} == {(None, None)}


def test_json_has_these_keys(measured: Profile) -> None:
    data = json.loads(json.dumps(measured.to_dict()))
    assert set(data) == {
        *("model", "kind", "target", "threads", "repeats", "limits", "overhead", "operators"),
        *("run_minimum_us", "run_median_us", "operators_minimum_us", "operators_median_us"),
    }
    assert set(data["limits"]) == {"int8", "float32", "copies"}
    assert set(data["operators"][0]) == {
        *("name", "operator", "kernel", "shape", "dtype", "minimum_us", "median_us", "share", "multiply_adds"),
        *("gmac_per_second", "of_peak", "bytes", "gbyte_per_second", "of_limit", "note"),
    }


def test_profiling_leaves_the_runner_as_it_was(library: Path) -> None:
    runner = Runner(library, num_threads=1)
    expected = runner.run(sample(1))
    trace = runner.trace(sample(0), repeats=2)
    assert {len(k.seconds) for k in trace.kernels} == {len(trace.runs)} == {len(trace.passes)} == {2}
    for name, value in runner.run(sample(1)).items():
        np.testing.assert_array_equal(value, expected[name])


def test_profiling_does_not_load_the_compiler(library: Path) -> None:
    code = f"from pipeline.profiling import profile; profile({str(library)!r}, threads=1, repeats=1)"
    output = run_python(code, LOADED)
    assert "libtvm_runtime.so" in output
    assert "libtvm_compiler" not in output


@pytest.mark.parametrize("command", ["bench", "profile", "run"])
def test_commands_that_run_libraries_do_not_import_the_compiler(command: str) -> None:
    output = run_python(f"import sys, pipeline.cli.{command}_command", "print('tvm' in sys.modules)")
    assert output.split() == ["False"]


def test_wrong_options_and_inputs_are_refused(library: Path) -> None:
    with pytest.raises(OptionError, match="num_threads is 0"):
        profile(library, threads=0)
    with pytest.raises(OptionError, match="repeats is 0"):
        profile(library, repeats=0)
    with pytest.raises(SampleError, match="missing: x"):
        profile(library, {}, limits=False)


@pytest.mark.parametrize(
    ("change", "message"), [(slice(0), "older pipeline built it"), (slice(1), "calls 6 kernels, its metadata lists 1")]
)
def test_a_library_that_lists_other_operators_is_refused(
    library: Path, monkeypatch: pytest.MonkeyPatch, change: slice, message: str
) -> None:
    metadata = read_metadata(library)
    changed = msgspec.structs.replace(metadata, operators=metadata.operators[change])
    monkeypatch.setattr(runner_module, "read_metadata", lambda _: changed)
    with pytest.raises(ArtifactError, match=f"{message}.*Build it again"):
        profile(library, repeats=1, limits=False)


def test_limits_that_cannot_be_built_are_refused_with_the_way_out(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_LINKER", "no-such-linker")
    with pytest.raises(BuildError, match=r"can't be built\. The linker no-such-linker couldn't .*without limits"):
        profile(library)


def test_a_mistake_of_our_own_is_not_taken_for_limits_that_cannot_be_built(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"probe_library .* ended with 1"):
        profile(library)


def test_limits_are_not_linked_for_another_machine_than_the_librarys(library: Path, tmp_path: Path) -> None:
    path = with_metadata(library, tmp_path / "own.so", lambda m: m["target"].update(triple="x86_64-unknown-linux"))
    with pytest.raises(BuildError, match=r"built for .*\(x86_64-unknown-linux\), and how to link for that isn't known"):
        profile(path, threads=1)
    path = with_metadata(library, tmp_path / "other.so", lambda m: m["target"].update(instruction_set="avx3"))
    with pytest.raises(BuildError, match=r"damaged: Unknown instruction set 'avx3'"):
        profile(path, threads=1)


def test_overhead_is_the_median_of_runs_beside_their_passes() -> None:
    kernels = (KernelTime("a", (1.0, 2.0, 3.0)), KernelTime("b", (1.0, 2.0, 3.0)))
    trace = Trace((4.0, 5.0, 6.0), kernels)
    assert trace.passes == (2.0, 4.0, 6.0)
    assert trace.overhead == pytest.approx(0.2)


LIMITS = Limits(int8=100e9, float32=10e9, copies=((2**10, 100e9), (2**20, 10e9)))


def test_bandwidth_is_interpolated_and_does_not_end() -> None:
    assert [LIMITS.bandwidth(size) for size in (1, 2**10, 2**15, 2**20, 2**30)] == [100e9, 100e9, 55e9, 10e9, 10e9]


def test_the_longer_one_of_computing_and_moving_is_the_limit() -> None:
    assert LIMITS.seconds(1_000_000, 2**10, in_float=False) == 1e-5
    assert LIMITS.seconds(1_000_000, 2**10, in_float=True) == 1e-4
    assert LIMITS.seconds(0, 2**20, in_float=False) == 2**20 / 10e9


def operator_profile(library: Path, name: str, seconds: Sequence[float]) -> OperatorProfile:
    """Return the note on an operator that takes `seconds`, while all others take almost no time."""
    metadata = read_metadata(library)
    times = tuple(
        KernelTime(o.kernel, tuple(seconds) if o.name == name else (1e-9,) * len(seconds)) for o in metadata.operators
    )
    found = (o for o in _operators(metadata, Trace(tuple(seconds), times), LIMITS) if o.name == name)
    return next(found)


def test_the_shortest_time_counts(library: Path) -> None:
    conv = operator_profile(library, "r1", [30e-6, 10e-6, 20e-6])
    assert (conv.minimum_us, conv.median_us) == (pytest.approx(10), pytest.approx(20))
    assert conv.of_limit == pytest.approx(LIMITS.seconds(conv.multiply_adds, conv.bytes, in_float=False) / 10e-6)


@pytest.mark.parametrize(
    ("of_limit", "noted"), [(0.9, False), (0.51, False), (0.49, True), (0.1, True)], ids=lambda value: str(value)
)
def test_an_operator_far_below_its_limit_is_remarked_on(library: Path, of_limit: float, noted: bool) -> None:
    (record,) = (o for o in read_metadata(library).operators if o.name == "s")
    seconds = LIMITS.seconds(record.multiply_adds, record.moved_bytes, in_float=False) / of_limit
    conv = operator_profile(library, "s", [seconds])
    assert conv.of_limit == pytest.approx(of_limit)
    assert (conv.note == f"Takes {seconds * 1e6:.1f} us, its multiply-adds could take 3.3 us.") == noted
    assert bool(conv.note) == noted


def test_types_know_their_bytes() -> None:
    sizes = {"uint8": 6, "float16": 12, "int32": 24, "float64": 48, "bool": 6}
    assert {dtype: TensorType((2, 3), dtype).nbytes for dtype in sizes} == sizes
