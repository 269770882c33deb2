"""Tables and a picture of what `benchmarks.accuracy` measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from rich.table import Table

from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.tasks import TASKS
from benchmarks.performance import replace_block

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "accuracy"

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, PICTURE = DOCS / "accuracy.md", DOCS / "accuracy.svg"
PANELS = 5
"""How many models the picture shows side by side."""

COLOURS = {"onnxruntime": "tab:blue", "openvino": "tab:green", "ours": "tab:orange"}

Report = dict[str, Any]
Rows = tuple[list[str], list[list[str]]]
"""Headings, and cells."""


def _methods(report: Report) -> list[str]:
    return [m for m in METHODS if any(m in result["methods"] for result in report["models"].values())]


def accuracy_rows(report: Report) -> Rows:
    """Return a row for each model: its metric in float and by each method, and its distance from float in dB below."""
    methods = _methods(report)
    headings = ["model", "metric", "float", *(METHODS[m].title for m in methods)]
    rows = []
    for name, result in report["models"].items():
        metric, found = TASKS[name].metric(), result["methods"]
        of_float = next((f"{r['float']:.{metric.digits}f}" for r in found.values() if "float" in r), "")
        of_float = "" if of_float == "inf" else of_float
        values = [_cell(found.get(m), "metric", metric.digits) for m in methods]
        rows.append([name, metric.title, of_float, *values])
        if metric.title != "SQNR, dB":
            rows.append(["", "SQNR, dB", "", *(_cell(found.get(m), "sqnr_db", 1) for m in methods)])
    return headings, rows


def _cell(found: dict[str, Any] | None, key: str, digits: int) -> str:
    return "" if found is None else "failed" if "failed" in found else f"{found[key]:.{digits}f}"


def cost_rows(report: Report) -> Rows:
    """Return a row for each model: the seconds and the memory that each method takes to quantize it."""
    methods = _methods(report)
    rows = [
        [name, *(_cost(result["methods"].get(method)) for method in methods)]
        for name, result in report["models"].items()
    ]
    return ["model", *(METHODS[m].title for m in methods)], rows


def _cost(found: dict[str, Any] | None) -> str:
    if found is None or "failed" in found:
        return ""
    return f"{found['processor_seconds']:.0f} s, {found['peak_mib']:.0f} MiB"


def rich_table(title: str, headings: list[str], rows: list[list[str]]) -> Table:
    """Return rows as a table for a terminal."""
    table = Table(*headings, title=title)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """Return rows as a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw(report: Report, path: Path) -> None:
    """Draw a panel for each model, with each method's distance from float in dB: longer bars are better."""
    models, methods = report["models"], _methods(report)
    rows = math.ceil(len(models) / PANELS)
    size = (2.2 * min(len(models), PANELS) + 2, 0.25 * len(methods) * rows + rows)
    figure, panels = plt.subplots(rows, min(len(models), PANELS), figsize=size, sharey=True, squeeze=False)
    for panel in panels.flat[len(models) :]:
        panel.axis("off")
    colours = [COLOURS[METHODS[method].engine] for method in methods]
    for panel, (name, result) in zip(panels.flat, models.items(), strict=False):
        found = [result["methods"].get(method, {}) for method in methods]
        panel.barh(range(len(methods)), [max(f.get("sqnr_db", 0.0), 0.0) for f in found], color=colours)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("SQNR, dB")
        panel.set_yticks(range(len(methods)), [METHODS[m].title for m in methods])
    panels[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})


COLUMNS: dict[str, tuple[str, ...]] = {
    "best of ONNX Runtime": tuple(m for m, method in METHODS.items() if method.engine == "onnxruntime"),
    "best of NNCF": tuple(m for m, method in METHODS.items() if method.engine == "openvino"),
    "ours": ("ours",),
    "ours, effort best": ("ours-best",),
}
"""What the page's tables show: of these methods, the one that comes out best for a model."""


def page_rows(report: Report) -> tuple[Rows, Rows]:
    """Return the page's two tables: how good int8 models are, with their distance from float in dB, and their cost."""
    accuracy, cost = [], []
    for name, result in report["models"].items():
        metric = TASKS[name].metric()
        best = [_best(result["methods"], methods, metric.more_is_better) for methods in COLUMNS.values()]
        title = "" if metric.title == "SQNR, dB" else metric.title
        of_float = next((r["float"] for r in result["methods"].values() if "float" in r), None)
        cells = [f"{of_float:.{metric.digits}f}" if title and of_float is not None else ""]
        for found in best:
            values = [_cell(found, "metric", metric.digits)] if title and found else []
            cells.append("; ".join([*values, f"{_cell(found, 'sqnr_db', 1)} dB"]) if found else "")
        accuracy.append([name, title, *cells])
        cost.append([name, *(_cost(found) for found in best)])
    return (["model", "metric", "float", *COLUMNS], accuracy), (["model", *COLUMNS], cost)


def _best(found: dict[str, Any], methods: tuple[str, ...], more_is_better: bool) -> dict[str, Any] | None:
    """Return the result with the best metric; of equal ones, that with the smallest distance from float."""
    results = [found[m] for m in methods if m in found and "failed" not in found[m]]
    sign = 1 if more_is_better else -1
    return max(results, key=lambda result: (sign * result["metric"], result["sqnr_db"]), default=None)


def write_page(report: Report) -> None:
    """Write the tables and the picture of docs/accuracy.md."""
    machine = f"On {', '.join(f'{name} {value}' for name, value in report['machine'].items())}."
    accuracy, cost = page_rows(report)
    page = PAGE.read_text(encoding="utf-8")
    page = replace_block(page, "comparison", f"{markdown(*accuracy)}\n\n{machine}")
    page = replace_block(page, "cost", markdown(*cost))
    PAGE.write_text(page, encoding="utf-8")
    draw(report, PICTURE)
