"""ONNX's own tests of single operators, each imported, compiled for this machine, run, and compared.

    python -m tests.importer.backend_suite [--only PATTERN] [--jobs 2] [--json FILE]

runs all of them and prints every one that neither passes nor is refused, what was refused and why, and how many ended
how. Many of the tests have as inputs what models have as constants (axes, shapes, weights). A test that is refused as
it stands is tried again with all inputs but the first as constants; `--bind-constants` tries only that form, of all.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fnmatch
import functools
import json
import multiprocessing
import multiprocessing.connection
import queue
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import compose, numpy_helper

from pipeline.compiler.execute import Executor
from pipeline.errors import PipelineError
from pipeline.importer import import_proto

Array = npt.NDArray[Any]

SLOW_SECONDS = 60


class Status(StrEnum):
    """How a test can end; only the first two are right."""

    PASS = "pass"  # noqa: S105 - no password
    REFUSED = "refused"
    WRONG = "WRONG"
    TRACEBACK = "TRACEBACK"
    SLOW = "SLOW"


@dataclass(frozen=True)
class Case:
    """A test: a model, and one set of inputs with the outputs that it must give."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    rtol: float
    atol: float

    def bound(self) -> Case:
        """Return the test with all inputs but the first as constants."""
        first, *others = self.inputs
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        kept = [v for v in model.graph.input if v.name not in others]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.graph.initializer.extend(numpy_helper.from_array(self.inputs[n], n) for n in others)
        return Case(self.name, model, {first: self.inputs[first]}, self.outputs, self.rtol, self.atol)


@dataclass(frozen=True)
class Result:
    """How a test ended, and what there is to say about it."""

    name: str
    status: Status
    detail: str = ""
    bound: bool = False
    seconds: float = 0.0


@functools.cache
def cases() -> dict[str, Case]:
    """Return the tests whose inputs and outputs are tensors of numbers, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found = [_case(test) for test in load_model_tests(kind="node")]
    return {case.name: case for case in found if case is not None}


def _case(test: Any) -> Case | None:
    inputs, outputs = test.data_sets[0]
    if not all(isinstance(v, np.ndarray | np.generic) and v.dtype.kind not in "OSU" for v in (*inputs, *outputs)):
        return None
    graph = test.model.graph
    if len(inputs) != len(graph.input) or not inputs:
        return None
    return Case(
        test.name,
        test.model,
        {v.name: np.asarray(a) for v, a in zip(graph.input, inputs, strict=True)},
        {v.name: np.asarray(a) for v, a in zip(graph.output, outputs, strict=True)},
        test.rtol,
        test.atol,
    )


def run(case: Case) -> Result:
    """Import, compile and run a test, and return how it ended."""
    try:
        program = import_proto(case.model, {n: v.shape for n, v in case.inputs.items()}, case.name, "0" * 64)
        actual = Executor(program).run(case.inputs)
    except PipelineError as error:
        return Result(case.name, Status.REFUSED, str(error))
    except Exception:  # What else it raises is what this looks for.
        return Result(case.name, Status.TRACEBACK, traceback.format_exc())
    for name, expected in case.outputs.items():
        problem = difference(actual[name], expected, case)
        if problem:
            return Result(case.name, Status.WRONG, f"{name}: {problem}")
    return Result(case.name, Status.PASS)


def difference(actual: Array, expected: Array, case: Case) -> str:
    """Return how an output differs from what it must be; an empty text if it doesn't."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return f"{actual.dtype}{actual.shape}, expected {expected.dtype}{expected.shape}"
    try:
        np.testing.assert_allclose(actual.astype("f8"), expected.astype("f8"), rtol=case.rtol, atol=case.atol)
    except AssertionError as error:
        return str(error).strip()
    return ""


def merged(parts: Sequence[Case]) -> Case:
    """Return tests of one operator set as one, which is compiled once; names begin with the tests' and a dot."""
    model = onnx.ModelProto()
    model.CopyFrom(parts[0].model)
    del model.graph.node[:], model.graph.input[:], model.graph.output[:], model.graph.initializer[:]
    del model.graph.value_info[:]
    inputs, outputs = {}, {}
    for part in parts:
        graph = compose.add_prefix(part.model, f"{part.name}.").graph
        for field in ("node", "input", "output", "initializer", "value_info"):
            getattr(model.graph, field).extend(getattr(graph, field))
        inputs |= {f"{part.name}.{name}": value for name, value in part.inputs.items()}
        outputs |= {f"{part.name}.{name}": value for name, value in part.outputs.items()}
    return Case("merged", model, inputs, outputs, parts[0].rtol, parts[0].atol)


def attempt(name: str, bind: bool = False) -> Result:
    """Run a test by name: as it stands and, if it is refused, with constants; or only with constants."""
    case = cases()[name]
    start = time.monotonic()
    result = Result(name, Status.REFUSED) if bind else run(case)
    bound = len(case.inputs) > 1 and result.status is Status.REFUSED
    if bound:
        result = run(case.bound())
    elif bind:
        result = run(case)
    return Result(name, result.status, result.detail, bound, time.monotonic() - start)


def _work(connection: multiprocessing.connection.Connection, bind: bool) -> None:
    cases()
    connection.send(None)
    while (name := connection.recv()) is not None:
        connection.send(attempt(name, bind))


class _Worker:
    """A process that runs tests one by one, and that is replaced when one hangs or takes it down."""

    def __init__(self, bind: bool) -> None:
        self._bind = bind
        self._start()

    def _start(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_work, args=(theirs, self._bind), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def run(self, name: str) -> Result:
        self._connection.send(name)
        try:
            if self._connection.poll(SLOW_SECONDS):
                result: Result = self._connection.recv()
                return result
            result = Result(name, Status.SLOW, f"more than {SLOW_SECONDS} s", seconds=SLOW_SECONDS)
        except EOFError:
            self._process.join()
            result = Result(name, Status.TRACEBACK, f"the process ended with exit code {self._process.exitcode}")
        self.end()
        self._start()
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def run_all(names: Sequence[str], jobs: int, bind: bool = False) -> Iterator[Result]:
    """Run tests in processes of their own and yield how each ended, in order."""
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    workers = [_Worker(bind) for _ in range(jobs)]
    for worker in workers:
        free.put(worker)

    def one(name: str) -> Result:
        worker = free.get()
        try:
            return worker.run(name)
        finally:
            free.put(worker)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(one, names)
    finally:
        for worker in workers:
            worker.end()


def main() -> int:
    """Run the command; see the module's docstring. The exit code is 1 if a test ended wrongly."""
    parser = argparse.ArgumentParser(description="Run ONNX's tests of single operators.")
    parser.add_argument("--only", default="*", help="pattern of names, such as 'test_resize_*'")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--bind-constants", action="store_true", help="with all inputs but the first as constants")
    parser.add_argument("--json", type=Path, help="file for the results, one a line, written as they come")
    options = parser.parse_args()
    names = sorted(n for n in cases() if fnmatch.fnmatch(n, options.only))
    counts: collections.Counter[Status] = collections.Counter()
    sink = options.json.open("w") if options.json else contextlib.nullcontext()
    with sink as file:
        for result in run_all(names, options.jobs, options.bind_constants):
            counts[result.status] += 1
            if result.status is not Status.PASS:
                print(f"{result.status:9s} {result.name}: {_summary(result.detail)}", flush=True)
            if file is not None:
                print(json.dumps(asdict(result)), file=file, flush=True)
    print("\n".join(f"{counts[status]:5d} {status}" for status in Status))
    return int(any(counts[s] for s in (Status.WRONG, Status.TRACEBACK, Status.SLOW)))


def _summary(detail: str) -> str:
    lines = [line.strip() for line in detail.splitlines() if line.strip()]
    return (lines[-1] if detail.startswith("Traceback") else " ".join(lines[:6]))[:200] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
