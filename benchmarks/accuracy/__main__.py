"""Accuracy beside ONNX Runtime and NNCF, on the same samples, with the time and memory that each quantizer takes.

    python -m benchmarks.accuracy [MODEL ...] [--method METHOD ...] [--folder DIR] [--json FILE] [--page]

Each model is quantized by every method with the same 100 samples, each time in a process of its own, and judged on
other samples, beside the float model in ONNX Runtime. Peers have their own quantizers' settings, per channel; ONNX
Runtime's int8 models run in ONNX Runtime, NNCF's in OpenVINO, ours in our own runtime.

`--folder` keeps models, samples and what was measured; what is there already isn't measured again. `--page` writes the
table and the picture of docs/accuracy.md.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.report import accuracy_rows, cost_rows, draw, rich_table, write_page
from benchmarks.accuracy.tasks import TASKS
from benchmarks.machine import cpu_name

PACKAGES = ("onnx-int8-pipeline", "onnxruntime", "openvino", "nncf", "pillow")


def write_task(name: str, folder: Path) -> Path:
    """Write a task's model, samples and labels into a folder of its own, and return that; what is there stays.

    The folder holds `model.onnx`, `calibration/0000.npz` and `evaluation/0000.npz` and so on, and `labels.json`.
    """
    own = folder / name
    if (own / "labels.json").exists():
        return own
    task = TASKS[name]
    labels = []
    for purpose in ("calibration", "evaluation"):
        (own / purpose).mkdir(parents=True, exist_ok=True)
        for i, sample in enumerate(task.samples(purpose)):
            np.savez(own / purpose / f"{i:04d}.npz", **sample.feeds)
            if purpose == "evaluation":
                labels.append(sample.label)
    (own / "model.onnx").write_bytes(task.model().SerializeToString(deterministic=True))
    (own / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return own


def measure(task: str, method: str, folder: Path) -> dict[str, Any]:
    """Return what a method comes to; if a process of it fails, its last words as "failed"."""
    kept = folder / f"{method}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    found: dict[str, Any] = {}
    for step in ("quantize", "judge"):
        command = [sys.executable, "-m", "benchmarks.accuracy.worker", step, task, method, str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (result.stdout if result.returncode == 0 else result.stderr).strip().splitlines() or ["nothing said"]
        if result.returncode != 0:
            return {"failed": f"{step}: {lines[-1]}"}
        found |= json.loads(lines[-1])
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


@click.command()
@click.argument("models", nargs=-1, type=click.Choice(list(TASKS)))
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Default: all.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep everything here, and go on with what is there.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the results: an .svg file.")
@click.option("--page", is_flag=True, help="Write the table and the picture of docs/accuracy.md.")
def main(
    models: tuple[str, ...],
    methods: tuple[str, ...],
    folder: Path | None,
    json_path: Path | None,
    picture: Path | None,
    page: bool,
) -> None:
    """Measure MODELS, by default all."""
    with tempfile.TemporaryDirectory() as temporary:
        results = {}
        for name in models or TASKS:
            own = write_task(name, folder or Path(temporary))
            found = {method: measure(name, method, own) for method in methods or METHODS}
            for method in (m for m, r in found.items() if "failed" in r):
                click.echo(f"{name}, {method}: {found[method]['failed']}", err=True)
            results[name] = {"metric": TASKS[name].metric().title, "methods": found}
            click.echo(f"{name} is done", err=True)
    machine = {"cpu": cpu_name(), "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    report = {"machine": machine, "models": results}
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(rich_table("accuracy", *accuracy_rows(report)))
    console.print(rich_table("seconds of processors, peak MiB", *cost_rows(report)))
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if picture is not None:
        draw(report, picture)
    if page:
        write_page(report)


if __name__ == "__main__":
    main()
