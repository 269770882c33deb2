"""Accuracy and latency of the real models, float32 and int8: the table in README.md.

python -m benchmarks.models [MODEL ...] [--algorithm auto] [--json FILE]
"""

from __future__ import annotations

import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import cpu_name
from pipeline.recipes import list_recipes, load_recipe, prepare
from pipeline.report.build_report import BuildReport
from pipeline.workflow import build, measure


def run_recipe(name: str, algorithm: str) -> BuildReport:
    """Quantize, build and measure one model in a temporary folder."""
    prepared = prepare(load_recipe(name))
    with tempfile.TemporaryDirectory() as folder:
        options = {"algorithm": algorithm, "shapes": prepared.shapes, "check": False, "float_library": True}
        report = build(prepared.model, prepared.calibration, output=folder, **options)
        return measure(report, prepared.evaluation)


def row(report: BuildReport) -> str:
    """Return a report as a row of a Markdown table."""
    accuracy, agreement, timing = report.accuracy, report.agreement, report.timing
    if agreement is None or timing is None:
        raise ValueError("the report was not measured")
    operators = report.annotation.operators
    cells = [
        report.model,
        f"{sum(o.precision == 'int8' for o in operators)} of {len(operators)}",
        "-" if accuracy is None else f"{accuracy.float32:.3f} / {accuracy.int8:.3f}",
        f"{agreement.same_argmax:.3f} of {agreement.samples}",
        f"{agreement.sqnr_db:.1f} dB",
        f"{timing.float32_ms:.2f} / {timing.int8_ms:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


@click.command()
@click.argument("models", nargs=-1)
@click.option("--algorithm", default="auto", show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path))
def main(models: tuple[str, ...], algorithm: str, target: Path | None) -> None:
    """Measure MODELS, by default all that have a recipe."""
    machine = {"cpu": cpu_name(), "python": platform.python_version(), "apache-tvm": version("apache-tvm")}
    click.echo(f"{machine['cpu']}, apache-tvm {machine['apache-tvm']}, algorithm {algorithm}, latency on 1 thread\n")
    click.echo("| model | int8 operators | accuracy, float / int8 | same top-1 as float | SQNR | ms, float / int8 |")
    click.echo("|---|---|---|---|---|---|")
    results: dict[str, Any] = {}
    for name in models or [r.name for r in list_recipes()]:
        report = run_recipe(name, algorithm)
        click.echo(row(report))
        results[name] = report.to_dict()
    if target is not None:
        target.write_text(json.dumps({"machine": machine, "models": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
