"""Latency beside ONNX Runtime and OpenVINO, int8 and float32, with memory and the time to a first result.

    python -m benchmarks.latency [mobilenet_v1 ...] [--threads 1 --threads 2] [--batch 1] [--isa avx2] [--json FILE]

Every engine runs in a process of its own, bound to as many cores as it has threads, and waits while another has its
turn: idle thread pools would disturb the others. In each round every engine runs the model a few times; the shortest
and the median time of all rounds count. Peers have their best configuration: all graph optimizations, models quantized
by their own tools from the same samples. Weights of the standard architectures are random: only speed counts.

Where a goal (`benchmarks.goals`) is missed, the layers are named that hold the library back.

`--isa` builds our library for an instruction set below the machine's own, and holds OpenVINO back from those above.
ONNX Runtime can't be held back: then it runs as it would anyway, and doesn't count as a peer, unless nothing that it
uses is above.

Peers whose products saturate on this machine (`benchmarks.saturation`) are marked, with how far their answers are from
their own models computed in float.
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
from benchmarks.saturation import PROBE_SHAPE, SATURATED_BELOW_DB, probe
from pipeline.cpu import missing_features

RUNS_IN_TURN = 5
START_REPEATS = 3
MOST_RESTARTS = 2
SETTLE_SECONDS = 0.02
"""After a turn, the engine's threads spin for a while."""

PEERS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

ONEDNN_NAMES = {
    "sse41": "SSE41",
    "avx2": "AVX2",
    "avx_vnni": "AVX2_VNNI",
    "avx512": "AVX512_CORE",
    "avx512_vnni": "AVX512_CORE_VNNI",
    "avx512_vbmi": "AVX512_CORE_VNNI",
    "amx_int8": "AVX512_CORE_AMX",
}
"""Our instruction sets in the names that hold back OpenVINO's library of kernels (ONEDNN_MAX_CPU_ISA)."""

UNUSED_BY_ONNXRUNTIME = frozenset({"avx512_vbmi", "amx_int8"})
"""Its convolutions use nothing beyond AVX512-VNNI."""


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


def target_for(isa: str) -> str:
    """Return the x86 target that this machine can run with an instruction set.

    Raises:
        click.ClickException: there is none.
    """
    for listing in pipeline.list_targets():
        if listing.name == "host":
            continue
        target = pipeline.load_target(listing.name)
        if target.instruction_set == isa and not missing_features(target.architecture, target.required_features):
            return target.name
    raise click.ClickException(f"This machine hasn't got {isa}.")


def held_back_peers(target: str) -> tuple[str, ...]:
    """Return the peers that use nothing above a target's instruction set."""
    ours, best = (pipeline.load_target(name).instruction_set for name in (target, "host"))
    names = list(ONEDNN_NAMES)
    above = set(names[names.index(ours) + 1 : names.index(best) + 1])
    return tuple(PEERS) if above <= UNUSED_BY_ONNXRUNTIME else ("openvino",)


def own_float_db(engine: str, model: Path) -> float:
    """Return how far an engine's answers are from its own model, in float; see `benchmarks.saturation`."""
    command = [sys.executable, "-m", "benchmarks.saturation", engine, str(model)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def saturating_peers() -> list[str]:
    """Return the peers whose products saturate on this machine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = Network(probe, PROBE_SHAPE)
        model, samples = network.write(folder / "probe.onnx"), network.samples(4)
        models = {
            "onnxruntime": quantize_onnxruntime(model, samples, folder / "onnxruntime.onnx"),
            "openvino": quantize_openvino(model, samples, folder / "openvino.xml"),
        }
        return [peer for peer, path in models.items() if own_float_db(peer, path) < SATURATED_BELOW_DB]


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
@click.option("--isa", type=click.Choice(list(ONEDNN_NAMES)), help="Hold everybody back from better instruction sets.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
def main(
    names: tuple[str, ...],
    threads: tuple[int, ...],
    precision: tuple[str, ...],
    rounds: int,
    batch: int,
    isa: str | None,
    json_path: Path | None,
) -> None:
    """Measure the networks NAMES, by default all."""
    target = "host" if isa is None else target_for(isa)
    if isa is not None:
        os.environ["ONEDNN_MAX_CPU_ISA"] = ONEDNN_NAMES[isa]
    counted, saturating = held_back_peers(target), saturating_peers()
    versions = {name: version(name) for name in ("apache-tvm", "onnxruntime", "openvino", "nncf")}
    machine = {"cpu": cpu_name(), "target": pipeline.load_target(target).name, **versions, "batch": str(batch)}
    notes = {"not held back": sorted({*PEERS} - {*counted}), "saturating": saturating}
    machine |= {note: " and ".join(engines) for note, engines in notes.items() if engines}
    titles = ("ours", *(f"{PEERS[peer]}{' *' if peer in saturating else ''}" for peer in PEERS))
    headings = (
        *("network", "precision", "threads", *titles, "ratio", "goal"),
        *("peers from own float, dB", "start, ms", "peak, MiB"),
    )
    table = Table(*headings, title="shortest run, ms", caption=", ".join(f"{k} {v}" for k, v in machine.items()))
    results: list[dict[str, Any]] = []
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            models = write_models(NETWORKS[name], Path(folder), batch, target)
            for kind in precision:
                distances = {peer: own_float_db(peer, models[kind][peer]) for peer in PEERS} if kind == "int8" else {}
                for count in threads:
                    figures = compare(models[kind], count, rounds)
                    ratio = figures["ours"].minimum_ms / min(figures[p].minimum_ms for p in counted)
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
                            "own_float_db": distances,
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
            " / ".join(f"{distance:.1f}" for distance in result["own_float_db"].values()),
            *(" / ".join(f"{engine[key]:.0f}" for engine in engines.values()) for key in ("start_ms", "peak_mib")),
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(layers_table(results))
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
