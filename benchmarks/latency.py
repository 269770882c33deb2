"""Latency of the standard architectures, float32 and int8, beside ONNX Runtime's float32 in the same run.

    python -m benchmarks.latency [mobilenet_v1 ...] [--threads 1] [--json FILE]

All programs take turns for some rounds, and each one's shortest time counts. Weights are random: only speed counts.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import pipeline
from benchmarks.architectures import ARCHITECTURES, write
from benchmarks.machine import cpu_name

Run = Callable[[], float]


def library_run(path: Path, feeds: dict[str, Any], threads: int) -> Run:
    """Return a function that runs a library once and returns its seconds."""
    runner = pipeline.Runner(path, num_threads=threads)
    return lambda: runner.benchmark(feeds, repeats=1, warmup=0)[0]


def peer_run(path: Path, feeds: dict[str, Any], threads: int) -> Run:
    """Return the same for the ONNX model in ONNX Runtime, all graph optimizations on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run() -> float:
        start = time.perf_counter()
        session.run(None, feeds)
        return time.perf_counter() - start

    return run


def measure(name: str, threads: int, rounds: int, folder: Path) -> dict[str, float]:
    """Return the shortest time of each program for one architecture, milliseconds."""
    model = write(name, folder / f"{name}.onnx")
    random = np.random.default_rng(0)
    samples = [random.standard_normal((1, 3, 224, 224)).astype("float32") for _ in range(2)]
    program, feeds = pipeline.load(model), {"x": samples[0]}
    pipeline.compile_program(program, pipeline.load_target("host"), folder / f"{name}.float32.so")
    pipeline.quantize(program, samples).build("host", folder / f"{name}.int8.so")
    runs = {
        "int8": library_run(folder / f"{name}.int8.so", feeds, threads),
        "float32": library_run(folder / f"{name}.float32.so", feeds, threads),
        "ONNX Runtime float32": peer_run(model, feeds, threads),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for label, run in runs.items():
            best[label] = min(best[label], run())
    return {label: seconds * 1e3 for label, seconds in best.items()}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(ARCHITECTURES)))
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path))
def main(names: tuple[str, ...], threads: int, rounds: int, target: Path | None) -> None:
    """Measure the architectures NAMES, by default all."""
    packages = {name: version(name) for name in ("apache-tvm", "onnxruntime")}
    machine = {"cpu": cpu_name(), "target": pipeline.load_target("host").name, **packages, "threads": str(threads)}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or sorted(ARCHITECTURES):
            results[name] = measure(name, threads, rounds, Path(folder))
    table = Table("network", "int8, ms", "float32, ms", "ONNX Runtime float32, ms", "int8 / ORT float32")
    for name, ms in results.items():
        cells = [f"{ms[label]:.2f}" for label in ("int8", "float32", "ONNX Runtime float32")]
        table.add_row(name, *cells, f"{ms['int8'] / ms['ONNX Runtime float32']:.2f}")
    table.caption = ", ".join(f"{k} {v}" for k, v in machine.items())
    Console().print(table)
    if target is not None:
        text = json.dumps({"machine": machine, "milliseconds": results}, indent=2)
        target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
