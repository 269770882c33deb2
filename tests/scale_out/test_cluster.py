"""Workers compute, to the last byte, what this process does, even if one of them dies."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.analysis.comparison import compare_tensors
from pipeline.analysis.metrics import load_metric
from pipeline.analysis.sensitivity import measure_sensitivity
from pipeline.api import quantize
from pipeline.config.options import CalibrateOptions, ScaleOutOptions
from pipeline.errors import DeviceError, OptionError, SampleError, TargetError
from pipeline.ir.program import Program
from pipeline.quantization.annotate import annotate
from pipeline.quantization.calibrate import calibrate_with_statistics
from pipeline.quantization.corrections import CORRECTIONS
from pipeline.quantization.statistics import BLOCK
from pipeline.report.agreement import OutputsCompared, agreement_of
from pipeline.samples import Samples
from pipeline.scale_out import Engine, Run, ThisProcess, Work, dask, engine_for
from pipeline.scale_out.dask import named_cluster
from tests.models import ModelBuilder, import_test_model

distributed = pytest.importorskip("distributed", reason="distributed isn't installed")

SAMPLES = 2 * BLOCK + 5


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    options = {"threads_per_worker": 1, "processes": True, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=2, silence_logs=logging.CRITICAL, **options) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def cluster(address: str) -> Iterator[Engine]:
    with named_cluster(address) as engine:
        yield engine


@pytest.fixture(scope="module")
def program() -> Program:
    random = np.random.default_rng(0)
    b = ModelBuilder()
    weights = [b.constant(random.standard_normal(s).astype("float32")) for s in ((8, 3, 3, 3), (8, 8, 1, 1), (4, 8))]
    y = b.node("HardSwish", b.node("Conv", "x", weights[0]))
    y = b.node("Sigmoid", b.node("Conv", y, weights[1]))
    y = b.node("Softmax", b.node("Gemm", b.node("Flatten", b.node("GlobalAveragePool", y)), weights[2], transB=1))
    return import_test_model(b.model({"x": (1, 3, 8, 8)}, y))


def arrays(count: int = SAMPLES) -> list[np.ndarray]:
    """Return samples of magnitudes so different that the order of additions shows."""
    random = np.random.default_rng(1)
    return [(random.standard_normal((3, 8, 8)) * 10 ** random.uniform(-3, 2)).astype("float32") for _ in range(count)]


def calibrated(program: Program, samples: Samples, engine: Engine, **options: Any) -> tuple[str, list[dict[str, Any]]]:
    """Return all bytes that a calibration gives: the table, and the statistics of all corrections."""
    annotation = annotate(program)
    needs = dict.fromkeys(need for c in CORRECTIONS.values() for need in c.needs(program, annotation))
    found = calibrate_with_statistics(program, annotation, samples, CalibrateOptions(**options), None, needs, engine)
    states = [{key: value.tobytes() for key, value in s.state().items()} for s in found.statistics.values()]
    return found.table.to_json(), states


@pytest.fixture(scope="module")
def expected(program: Program) -> tuple[str, list[dict[str, Any]]]:
    return calibrated(program, arrays(), ThisProcess())


def test_workers_make_the_table_and_statistics_of_one_process(
    cluster: Engine, program: Program, expected: tuple[str, list[dict[str, Any]]]
) -> None:
    assert calibrated(program, lambda: ((array, 7) for array in arrays()), cluster) == expected


@dataclass(frozen=True)
class DiesOnce:
    """Work whose worker is killed in the middle of it, unless that has happened before.

    Attributes:
        work: what is to be done.
        died: a file that says that it has happened.
    """

    work: Work[Any, Any]
    died: Path

    def __call__(self, runs: Sequence[Run], item: Any) -> Iterator[Any]:
        """Yield what the work yields."""
        yield from self.work(runs, item)
        if not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Deadly(Engine):
    """A cluster of which a worker dies."""

    cluster: Engine
    died: Path
    remote = True

    def map(self, work: Work[Any, Any], programs: Sequence[Program], items: Iterable[Any]) -> Iterator[Any]:
        """See `Engine`."""
        return self.cluster.map(DiesOnce(work, self.died), programs, items)


def saved(folder: Path) -> Path:
    for i, array in enumerate(arrays()):
        np.save(folder / f"{i:03}.npy", array)
    return folder


def test_what_a_dead_worker_was_doing_is_done_by_another(
    cluster: Engine, program: Program, expected: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    died = tmp_path / "died"
    assert calibrated(program, saved(tmp_path), Deadly(cluster, died)) == expected
    assert died.exists()


@dataclass(frozen=True)
class Doubles:
    """Work that doubles a number."""

    def __call__(self, runs: Sequence[Run], item: int) -> Iterator[int]:
        """Yield the number, doubled."""
        yield 2 * item


def test_items_are_read_as_they_are_needed_and_results_are_in_order(cluster: Engine) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            read.append(i)
            yield i

    results = cluster.map(Doubles(), [], items())
    assert next(results) == 0
    assert len(read) <= 8
    assert list(results) == [2 * i for i in range(1, 100)]


def test_a_wrong_sample_is_the_error_that_one_process_raises(cluster: Engine, program: Program, tmp_path: Path) -> None:
    wrong = saved(tmp_path) / "020.npy"
    np.save(wrong, np.full((3, 8, 8), np.nan, "float32"))
    with pytest.raises(SampleError, match=re.escape(f"{wrong}: input 'x' holds NaN or infinity.")):
        calibrated(program, tmp_path, cluster)


USER = """
def largest(outputs, sample):
    assert sample.float_outputs and sample.name.startswith("sample ")
    return max(value.max() for value in outputs.values())
"""


def test_what_is_measured_is_what_one_process_measures(cluster: Engine, program: Program, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    model = quantize(program, arrays(6), algorithm="abs_max", effort="none")
    feeds = [(f"sample {i}", {"x": array[None]}) for i, array in enumerate(arrays(3))]
    metric = load_metric(f"{tmp_path / 'user.py'}:largest")
    # Workers have the file's content.
    (tmp_path / "user.py").unlink()
    state, found = tmp_path / "state.json", []
    for engine in (cluster, ThisProcess()):
        ranking = measure_sensitivity(model, feeds, "", metric, state, engine=engine)
        compared = compare_tensors(model, (feed for _, feed in feeds), "", 20.0, engine=engine)
        agreed = agreement_of(
            engine.map(OutputsCompared(), [model.source, model.program], (feed for _, feed in feeds)), ""
        )
        found.append((ranking, state.read_bytes(), compared, agreed))
        state.unlink()
    assert found[0] == found[1]


def test_an_algorithm_for_which_the_order_matters_is_refused(cluster: Engine, program: Program) -> None:
    with pytest.raises(OptionError, match=r"moving_average .* depends on the order of the samples"):
        calibrated(program, arrays(), cluster, algorithm="moving_average")


def test_local_workers_are_started_once_for_all_that_needs_them() -> None:
    options = ScaleOutOptions(workers=1)
    with engine_for(options) as engine:
        with engine_for(options) as again:
            assert again is engine
        assert list(engine.map(Doubles(), [], range(3))) == [0, 2, 4]


@pytest.mark.parametrize(
    ("unlike", "message"),
    [
        (
            {"features": ("a_feature_of_tomorrow",)},
            r"The worker tcp://\S+ of the cluster \S+ lacks a_feature_of_tomorrow",
        ),
        ({"version": "0.0"}, r"has version \S+ of onnx-int8-pipeline, and this machine 0\.0"),
    ],
    ids=["feature", "version"],
)
def test_a_worker_that_could_not_compute_the_same_is_refused(
    unlike: dict[str, Any], message: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(dask.requirements(), **unlike)
    monkeypatch.setattr(dask, "requirements", lambda: other)
    with pytest.raises(TargetError, match=message), named_cluster(address):
        pass


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (distributed.scheduler.KilledWorker("task", None, 3), "Workers of the cluster died one after the other"),
        (distributed.client.FutureCancelledError("task", "lost"), "The connection to the cluster was lost: .*lost"),
        (ModuleNotFoundError("no module", name="pipeline.cpu"), "has no onnx-int8-pipeline: install it there"),
    ],
    ids=["killed", "lost", "not_installed"],
)
def test_failures_of_a_cluster_are_errors_to_act_on(raised: Exception, message: str) -> None:
    with pytest.raises(DeviceError, match=message), dask.reported_failures("the cluster"):
        raise raised


def test_a_cluster_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "CONNECT_SECONDS", 0.2)
    with pytest.raises(DeviceError, match=r"no connection to the cluster tcp://127\.0\.0\.1:1: "):
        named_cluster("tcp://127.0.0.1:1").__enter__()
