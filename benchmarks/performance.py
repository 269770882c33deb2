"""Writes the tables and the pictures of docs/performance.md from what the other benchmarks wrote.

python -m benchmarks.performance latency.json build.json kernels.json depth_first.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "performance"

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"
BARS = DOCS / "performance.svg"
ROOFLINE = DOCS / "roofline.svg"
ENGINES = {"ours": "ours", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def latency_table(report: dict[str, Any]) -> str:
    """Return the latencies as a Markdown table."""
    lines = [
        f"| network | precision | threads | {', '.join(ENGINES.values())}, ms | ratio | goal | start, ms | peak, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in report["results"]:
        engines = [result["engines"][name] for name in ENGINES]
        cells = [
            *(str(result[key]) for key in ("network", "precision", "threads")),
            " / ".join(f"{engine['minimum_ms']:.2f}" for engine in engines),
            f"{result['ratio']:.2f}",
            f"{result['goal']:.2f}",
            " / ".join(f"{engine['start_ms']:.0f}" for engine in engines),
            " / ".join(f"{engine['peak_mib']:.0f}" for engine in engines),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _machine(report)])


def layers_table(report: dict[str, Any]) -> str:
    """Return the layers that hold libraries back where goals are missed, as a Markdown table."""
    lines = [
        "| network | precision | threads | layer | kernel | us | of its limit | of all loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in report["results"]:
        start = " | ".join(str(result[key]) for key in ("network", "precision", "threads"))
        lines += [
            f"| {start} | {layer['name']} | `{layer['kernel']}` | {layer['microseconds']:.0f} "
            f"| {layer['of_limit']:.0%} | {layer['share']:.0%} |"
            for layer in result["held_back_by"]
        ]
    return "\n".join(lines)


def build_table(report: dict[str, Any]) -> str:
    """Return the build times as a Markdown table."""
    lines = ["| network | import to library, s | of that compile and link, s | peak, MiB |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {r['import to library']:.1f} | {r['compile and link']:.1f} | {r['peak_mib']:.0f} |"
        for name, r in report["results"].items()
    ]
    return "\n".join([*lines, "", _machine(report)])


def kernel_table(report: dict[str, Any]) -> str:
    """Return the layers' speeds as a Markdown table."""
    ceiling = report["ceiling_gmac_per_second"]
    lines = ["| layer | us | GMAC/s | of the ceiling |", "|---|---|---|---|"]
    for name, layer in report["layers"].items():
        speed = layer["gmac_per_second"]
        lines.append(f"| {name} | {layer['seconds'] * 1e6:.1f} | {speed:.0f} | {speed / ceiling:.0%} |")
    return "\n".join([*lines, "", f"The ceiling is {ceiling:.0f} GMAC/s. {_machine(report)}"])


def depth_first_table(report: dict[str, Any]) -> str:
    """Return what pairs of layers take in bands, as a share of what they take whole."""
    bands = sorted({int(count) for times in report["seconds"].values() for count in times} - {1})
    lines = [f"| layers | whole, us | {' | '.join(f'{b} bands' for b in bands)} |", "|---|---|" + "---|" * len(bands)]
    for name, times in report["seconds"].items():
        ratios = [f"{times[str(b)] / times['1']:.2f}" if str(b) in times else "" for b in bands]
        lines.append(f"| {name} | {times['1'] * 1e6:.0f} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def draw_bars(report: dict[str, Any], path: Path) -> None:
    """Draw the int8 latencies as bars, the better peer's being 1."""
    int8 = [result for result in report["results"] if result["precision"] == "int8"]
    counts = sorted({result["threads"] for result in int8})
    figure, panels = plt.subplots(1, len(counts), figsize=(5 * len(counts), 4), sharey=True, squeeze=False)
    for panel, threads in zip(panels[0], counts, strict=True):
        results = [result for result in int8 if result["threads"] == threads]
        for number, (name, label) in enumerate(ENGINES.items()):
            times = [r["engines"][name]["minimum_ms"] for r in results]
            best = [min(r["engines"][peer]["minimum_ms"] for peer in ENGINES if peer != "ours") for r in results]
            heights = [t / b for t, b in zip(times, best, strict=True)]
            panel.bar([i + (number - 1) * 0.27 for i in range(len(results))], heights, 0.27, label=label)
        panel.axhline(1, color="grey", linewidth=0.8)
        panel.set_title(f"int8, {threads} thread{'s' if threads > 1 else ''}; the better peer is 1")
        panel.set_xticks(range(len(results)), [r["network"] for r in results], rotation=35, ha="right")
    panels[0][0].legend()
    _save(figure, path)


def draw_roofline(report: dict[str, Any], path: Path) -> None:
    """Draw layers under the machine's roofline: speed over multiply-adds for each byte that has to be moved."""
    ceiling, layers = report["ceiling_gmac_per_second"], report["layers"]
    figure, axes = plt.subplots(figsize=(9, 6))
    intensities = np.geomspace(0.5, 500, 100)
    for moved, bandwidth in report["copy_gb_per_second"].items():
        label = f"{bandwidth:.0f} GB/s, as a copy of {int(moved) // 1024} KiB in all"
        axes.plot(intensities, np.minimum(ceiling, intensities * bandwidth), linewidth=0.8, label=label)
    markers = {"depthwise": "^", "1x1": "s", "3x3": "o", "7x7": "D", "classifier": "v"}
    for kind, marker in markers.items():
        own = [layer for name, layer in layers.items() if name.startswith(kind)]
        speeds = [layer["gmac_per_second"] for layer in own]
        x = [s * layer["seconds"] * 1e9 / layer["bytes"] for s, layer in zip(speeds, own, strict=True)]
        axes.scatter(x, speeds, marker=marker, label=kind, s=24)
    axes.set(xscale="log", yscale="log", xlabel="multiply-adds for each byte", ylabel="GMAC/s", ylim=(5, 2 * ceiling))
    axes.set_title(f"{report['dtype']} layers on one thread, ceiling {ceiling:.0f} GMAC/s")
    axes.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})


def replace_block(text: str, name: str, content: str) -> str:
    """Return the page with what stands between a block's two markers replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def _machine(report: dict[str, Any]) -> str:
    machine = report.get("machine") or report["environment"]
    return f"On {', '.join(f'{key} {value}' for key, value in machine.items())}."


@click.command()
@click.argument("latency", type=click.Path(path_type=Path, exists=True))
@click.argument("build", type=click.Path(path_type=Path, exists=True))
@click.argument("kernels", type=click.Path(path_type=Path, exists=True))
@click.argument("depth_first", type=click.Path(path_type=Path, exists=True))
def main(latency: Path, build: Path, kernels: Path, depth_first: Path) -> None:
    """Write the page's tables and its pictures from LATENCY, BUILD, KERNELS and DEPTH_FIRST."""
    paths = (latency, build, kernels, depth_first)
    reports = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    page = PAGE.read_text(encoding="utf-8")
    page = replace_block(page, "latency", latency_table(reports[latency]))
    page = replace_block(page, "layers", layers_table(reports[latency]))
    page = replace_block(page, "build", build_table(reports[build]))
    page = replace_block(page, "kernels", kernel_table(reports[kernels]))
    page = replace_block(page, "depth_first", depth_first_table(reports[depth_first]))
    PAGE.write_text(page, encoding="utf-8")
    draw_bars(reports[latency], BARS)
    draw_roofline(reports[kernels], ROOFLINE)


if __name__ == "__main__":
    main()
