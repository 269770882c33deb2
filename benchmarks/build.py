"""How long it takes from a model to a library, and how much memory.

    python -m benchmarks.build [mobilenet_v1 ...] [--repeats 3] [--json FILE]

Each build is a process of its own; the shortest of some repeats counts. Calibration, with two samples, is not part of
"import to library": it takes as long as there are samples.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import pipeline
from benchmarks.engine import peak_mib
from benchmarks.machine import cpu_name
from benchmarks.networks import NETWORKS

PHASES = ("import", "calibrate and realize", "compile and link")


def build_once(name: str, model: Path, folder: Path) -> dict[str, float]:
    """Build a network's int8 library in this process; return the seconds of each phase, and peak MiB."""
    marks = [time.perf_counter()]
    program = pipeline.load(model)
    marks.append(time.perf_counter())
    quantized = pipeline.quantize(program, NETWORKS[name].samples(2))
    marks.append(time.perf_counter())
    quantized.build("host", folder / "int8.so")
    marks.append(time.perf_counter())
    seconds = dict(zip(PHASES, (after - before for before, after in itertools.pairwise(marks)), strict=True))
    return {**seconds, "peak_mib": peak_mib()}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(NETWORKS)))
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
@click.option("--child", type=click.Path(path_type=Path), hidden=True)
def main(names: tuple[str, ...], repeats: int, json_path: Path | None, child: Path | None) -> None:
    """Build the networks NAMES, by default all."""
    if child is not None:
        with tempfile.TemporaryDirectory() as folder:
            click.echo(json.dumps(build_once(names[0], child, Path(folder))))
        return
    machine = {"cpu": cpu_name(), "python": sys.version.split()[0], "apache-tvm": version("apache-tvm")}
    table = Table("network", *(f"{p}, s" for p in PHASES), "import to library, s", "peak, MiB")
    table.caption = ", ".join(f"{k} {v}" for k, v in machine.items())
    results: dict[str, dict[str, float]] = {}
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            model = NETWORKS[name].write(Path(folder) / "model.onnx")
            command = [sys.executable, "-m", "benchmarks.build", name, "--child", str(model)]
            outputs = [
                subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(repeats)
            ]
        runs = [json.loads(output.splitlines()[-1]) for output in outputs]
        best = {key: min(run[key] for run in runs) for key in runs[0]}
        best["import to library"] = min(run[PHASES[0]] + run[PHASES[2]] for run in runs)
        results[name] = best
        cells = [f"{best[key]:.1f}" for key in (*PHASES, "import to library")]
        table.add_row(name, *cells, f"{best['peak_mib']:.0f}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
