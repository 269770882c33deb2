"""Latency beside ONNX Runtime and OpenVINO, int8 and float32, with memory and the time to a first result.

    python -m benchmarks.latency [mobilenet_v1 ...] [--threads 1 --threads 2] [--batch 1] [--json FILE]

Every engine runs in a process of its own, bound to as many cores as it has threads, and waits while another has its
turn: idle thread pools would disturb the others. In each round every engine runs the model a few times; the shortest
and the median time of all rounds count. Peers have their best configuration: all graph optimizations, models quantized
by their own tools from the same samples. Weights of the standard architectures are random: only speed counts.

Where a goal (`benchmarks.goals`) is missed, the layers are named that hold the library back.

On a CPU with AMX, `--vnni` holds the peers back from it, and builds our library for AVX512-VNNI.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import pipeline
from benchmarks.goals import goal, held_back_by
from benchmarks.machine import cpu_name
from benchmarks.networks import NETWORKS, Network
from benchmarks.peers import quantize_onnxruntime, quantize_openvino

RUNS_IN_TURN = 5
START_REPEATS = 3
MOST_RESTARTS = 2
SETTLE_SECONDS = 0.02
"""After a turn, the engine's threads spin for a while."""

PEERS = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Figures:
    """What was measured of one engine: milliseconds of a run, of the start to a first result, and peak memory."""

    minimum_ms: float
    median_ms: float
    start_ms: float
    peak_mib: float


class Engine:
    """A child process that runs a model when told to; see `benchmarks.engine`."""

    def __init__(self, name: str, model: Path, threads: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.engine", name, str(model), str(threads)]
        # Installed packages have their bytecode; so has this one, after the first start.
        self._environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.times: list[float] = []
        self.peak_mib = 0.0
        self._restarts_left = MOST_RESTARTS
        self.start_ms = min(self._start() for _ in range(START_REPEATS))

    def _start(self) -> float:
        self.close()
        start = time.perf_counter()
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if not self._started():
            # OpenVINO 2026.4 now and then dies while it compiles PP-OCR's detector in float32.
            click.echo(f"{self._command[3]} was ended by a signal while it started; starting it again", err=True)
            return self._start()
        return (time.perf_counter() - start) * 1e3

    def _started(self) -> bool:
        """Wait for the first result; return False if a signal ended the process before."""
        assert self._process.stdout is not None
        if self._process.stdout.readline():
            return True
        if self._process.wait() < 0 and self._restarts_left > 0:
            self._restarts_left -= 1
            return False
        raise self._ended()

    def turn(self) -> None:
        """Run the model a few times."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{RUNS_IN_TURN}\n")
        self._process.stdin.flush()
        answer = json.loads(self._read())
        self.times += answer["milliseconds"]
        self.peak_mib = answer["peak_mib"]
        time.sleep(SETTLE_SECONDS)

    def close(self) -> None:
        """End the process."""
        process: subprocess.Popen[str] | None = getattr(self, "_process", None)
        if process is not None:
            process.communicate()

    def figures(self) -> Figures:
        """Return what was measured; the first turn is warming up."""
        counted = self.times[RUNS_IN_TURN:]
        return Figures(min(counted), statistics.median(counted), self.start_ms, self.peak_mib)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> click.ClickException:
        return click.ClickException(f"{' '.join(self._command)} ended; run it alone to see why.")


def write_models(network: Network, folder: Path, batch: int, target: str) -> dict[str, dict[str, Path]]:
    """Return the models of every engine, by precision and engine."""
    model = network.write(folder / "model.onnx", batch)
    samples = network.samples(8, batch)
    program = pipeline.load(model)
    pipeline.compile_program(program, pipeline.load_target(target), folder / "float32.so")
    pipeline.quantize(program, samples).build(target, folder / "int8.so")
    return {
        "int8": {
            "ours": folder / "int8.so",
            "onnxruntime": quantize_onnxruntime(model, samples, folder / "onnxruntime.onnx"),
            "openvino": quantize_openvino(model, samples, folder / "openvino.xml"),
        },
        "float32": {"ours": folder / "float32.so", "onnxruntime": model, "openvino": model},
    }


def compare(models: dict[str, Path], threads: int, rounds: int) -> dict[str, Figures]:
    """Measure all engines in turns."""
    engines = {name: Engine(name, path, threads) for name, path in models.items()}
    for _ in range(rounds + 1):
        for engine in engines.values():
            engine.turn()
    for engine in engines.values():
        engine.close()
    return {name: engine.figures() for name, engine in engines.items()}


def layers_table(results: list[dict[str, Any]]) -> Table:
    """Return a table of the layers that hold libraries back where goals are missed."""
    table = Table("network", "precision", "threads", "layer", "kernel", "us", "of its limit", "of all loss")
    table.title = "goals missed"
    for result in results:
        for layer in result["held_back_by"]:
            table.add_row(
                *(str(result[key]) for key in ("network", "precision", "threads")),
                *(layer["name"], layer["kernel"], f"{layer['microseconds']:.0f}"),
                *(f"{layer['of_limit']:.0%}", f"{layer['share']:.0%}"),
            )
    return table


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(NETWORKS)))
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option("--precision", type=click.Choice(["int8", "float32"]), multiple=True, default=("int8", "float32"))
@click.option(
    "--rounds", type=click.IntRange(min=1), default=8, show_default=True, help=f"Of {RUNS_IN_TURN} runs each."
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--vnni", is_flag=True, help="Hold everybody back from AMX.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
def main(
    names: tuple[str, ...],
    threads: tuple[int, ...],
    precision: tuple[str, ...],
    rounds: int,
    batch: int,
    vnni: bool,
    json_path: Path | None,
) -> None:
    """Measure the networks NAMES, by default all."""
    if vnni:
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
    target = "x86-64-v4-vnni" if vnni else "host"
    versions = {name: version(name) for name in ("apache-tvm", "onnxruntime", "openvino", "nncf")}
    machine = {"cpu": cpu_name(), "target": pipeline.load_target(target).name, **versions, "batch": str(batch)}
    headings = (
        "network",
        "precision",
        "threads",
        "ours",
        "ONNX Runtime",
        "OpenVINO",
        "ratio",
        "goal",
        "start, ms",
        "peak, MiB",
    )
    table = Table(*headings, title="shortest run, ms", caption=", ".join(f"{k} {v}" for k, v in machine.items()))
    results: list[dict[str, Any]] = []
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            models = write_models(NETWORKS[name], Path(folder), batch, target)
            for kind in precision:
                for count in threads:
                    figures = compare(models[kind], count, rounds)
                    ratio = figures["ours"].minimum_ms / min(figures[p].minimum_ms for p in PEERS)
                    wanted = goal(name, kind, count, machine["target"])
                    missed = held_back_by(models[kind]["ours"], count) if ratio > wanted else []
                    results.append(
                        {
                            "network": name,
                            "precision": kind,
                            "threads": count,
                            "engines": {engine: asdict(f) for engine, f in figures.items()},
                            "ratio": ratio,
                            "goal": wanted,
                            "held_back_by": [asdict(layer) for layer in missed],
                        }
                    )
                    click.echo(f"{name} {kind} {count}: {ratio:.2f}, goal {wanted:.2f}", err=True)
    for result in results:
        engines = result["engines"]
        table.add_row(
            *(str(result[key]) for key in ("network", "precision", "threads")),
            *(f"{engine['minimum_ms']:.2f}" for engine in engines.values()),
            f"{result['ratio']:.2f}",
            f"{result['goal']:.2f}",
            *(" / ".join(f"{engine[key]:.0f}" for engine in engines.values()) for key in ("start_ms", "peak_mib")),
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(layers_table(results))
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
