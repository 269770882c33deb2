"""Writes the tables and the pictures of docs/performance.md from what the other benchmarks wrote.

python -m benchmarks.performance [--latency FILE] [--build FILE] [--kernels FILE] [--depth-first FILE] [--arm64 FILE]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "performance"

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"
BARS = DOCS / "performance.svg"
ROOFLINE = DOCS / "roofline.svg"
ARM64 = DOCS / "arm64.svg"
ENGINES = {"ours": "ours", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def latency_table(report: dict[str, Any]) -> str:
    """Return the latencies as a Markdown table."""
    saturating = report["machine"].get("saturating", "")
    titles = (f"{label}*" if name in saturating else label for name, label in ENGINES.items())
    lines = [
        f"| network | precision | threads | {', '.join(titles)}, ms | ratio | goal | peers from own float, dB "
        "| start, ms | peak, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in report["results"]:
        engines = [result["engines"][name] for name in ENGINES]
        cells = [
            *(str(result[key]) for key in ("network", "precision", "threads")),
            " / ".join(f"{engine['minimum_ms']:.2f}" for engine in engines),
            f"{result['ratio']:.2f}",
            f"{result['goal']:.2f}",
            " / ".join(f"{distance:.1f}" for distance in result.get("own_float_db", {}).values()),
            " / ".join(f"{engine['start_ms']:.0f}" for engine in engines),
            " / ".join(f"{engine['peak_mib']:.0f}" for engine in engines),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _machine(report)])


def layers_table(reports: list[dict[str, Any]]) -> str:
    """Return the layers that hold libraries back where goals are missed, as a Markdown table."""
    lines = [
        "| target | network | precision | threads | layer | kernel | us | of its limit | of all loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        target = report["machine"]["target"]
        for result in report["results"]:
            start = " | ".join((target, *(str(result[key]) for key in ("network", "precision", "threads"))))
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


def merged(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one report of counted libraries; of a library that is in several, the last one, beside all peers."""
    results: dict[tuple[str, ...], dict[str, Any]] = {}
    for result in (result for report in reports for result in report["results"]):
        key = tuple(result[name] for name in ("network", "precision", "target"))
        earlier = results.get(key, {"peers": {}})
        results[key] = {**result, "peers": {**earlier["peers"], **result["peers"]}}
    return {"machine": reports[-1]["machine"], "results": [results[key] for key in sorted(results)]}


def arm64_tables(report: dict[str, Any]) -> str:
    """Return the instructions of arm64 libraries, beside the peers' and by kind of layer, as Markdown tables."""
    results = report["results"]
    peers = list(dict.fromkeys(peer for result in results for peer in result["peers"]))
    kinds = list(dict.fromkeys(layer["kind"] for result in results for layer in result["layers"]))
    beside = [
        f"| network | precision | target | ours | {' | '.join(peers)} | ours / best peer |",
        "|---|---|---|---|---|" + "---|" * len(peers),
    ]
    by_kind = [f"| network | precision | target | {' | '.join(kinds)} |", "|---|---|---|" + "---|" * len(kinds)]
    for result in results:
        what = " | ".join(result[key] for key in ("network", "precision", "target"))
        counts = {peer: sum(best["instructions"].values()) for peer, best in result["peers"].items()}
        cells = [f"{counts[peer] / 1e6:.1f}" if peer in counts else "" for peer in peers]
        ratio = f"{result['instructions'] / min(counts.values()):.2f}" if counts else ""
        own = f"{result['instructions'] / 1e6:.1f}"
        beside.append(f"| {' | '.join([what, own, *cells, ratio])} |")
        sums = dict.fromkeys(kinds, 0)
        for layer in result["layers"]:
            sums[layer["kind"]] += sum(layer["instructions"].values())
        by_kind.append(f"| {what} | {' | '.join(f'{n / 1e6:.1f}' for n in sums.values())} |")
    return "\n".join([*beside, "", *by_kind, *_cycles_rows(results), "", _machine(report)])


def _cycles_rows(results: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of estimated cycles."""
    cores = list(dict.fromkeys(core for r in results for layer in r["layers"] for core in layer["costs"]))
    if not cores:
        return []
    lines = ["", f"| network | precision | target | {' | '.join(cores)} |", "|---|---|---|" + "---|" * len(cores)]
    for result in results:
        costs = [layer["costs"] for layer in result["layers"] if layer["costs"]]
        if costs:
            what = " | ".join(result[key] for key in ("network", "precision", "target"))
            sums = (sum(cost[core]["cycles"] for cost in costs) for core in cores)
            lines.append(f"| {what} | {' | '.join(f'{total / 1e6:.1f}' for total in sums)} |")
    return lines


def draw_arm64(report: dict[str, Any], path: Path) -> None:
    """Draw the int8 instructions by class, ours and the best peer's, a panel for each network."""
    results = [result for result in report["results"] if result["precision"] == "int8"]
    networks = list(dict.fromkeys(result["network"] for result in results))
    figure, panels = plt.subplots(1, len(networks), figsize=(5 * len(networks), 5), squeeze=False)
    for panel, network in zip(panels[0], networks, strict=True):
        bars = [bar for result in results if result["network"] == network for bar in _arm64_bars(result)]
        bottoms = np.zeros(len(bars))
        for name in bars[0][1]:
            heights = np.array([counts[name] / 1e6 for _, counts in bars])
            panel.bar(range(len(bars)), heights, bottom=bottoms, label=name)
            bottoms += heights
        panel.set_xticks(range(len(bars)), [label for label, _ in bars], rotation=60, ha="right")
        panel.set_title(network)
    panels[0][0].set_ylabel("million instructions, int8")
    panels[0][-1].legend()
    _save(figure, path)


def _arm64_bars(result: dict[str, Any]) -> list[tuple[str, dict[str, int]]]:
    """Return the bars of a target: labels and instructions by class."""
    layers = [layer["instructions"] for layer in result["layers"]]
    bars = [(f"ours, {result['target']}", {name: sum(counts[name] for counts in layers) for name in layers[0]})]
    if result["peers"]:
        peer, best = min(result["peers"].items(), key=lambda item: sum(item[1]["instructions"].values()))
        bars.append((f"{peer}, {result['cpu'].partition(',')[0]}", best["instructions"]))
    return bars


def draw_bars(reports: list[dict[str, Any]], path: Path) -> None:
    """Draw the int8 latencies as bars, the better peer's being 1; a row of panels for each report."""
    counts = sorted({result["threads"] for report in reports for result in report["results"]})
    size = (5 * len(counts), 4 * len(reports))
    figure, panels = plt.subplots(len(reports), len(counts), figsize=size, sharey=True, squeeze=False)
    for row, report in zip(panels, reports, strict=True):
        for panel, threads in zip(row, counts, strict=True):
            results = [r for r in report["results"] if (r["precision"], r["threads"]) == ("int8", threads)]
            _draw_panel(panel, results)
            panel.set_title(f"{report['machine']['target']}, {threads} thread{'s' if threads > 1 else ''}")
        row[0].set_ylabel("int8, the better peer is 1")
    panels[0][0].legend()
    _save(figure, path)


def _draw_panel(panel: Axes, results: list[dict[str, Any]]) -> None:
    for number, (name, label) in enumerate(ENGINES.items()):
        times = [r["engines"][name]["minimum_ms"] for r in results]
        best = [min(r["engines"][peer]["minimum_ms"] for peer in ENGINES if peer != "ours") for r in results]
        heights = [t / b for t, b in zip(times, best, strict=True)]
        panel.bar([i + (number - 1) * 0.27 for i in range(len(results))], heights, 0.27, label=label)
    panel.axhline(1, color="grey", linewidth=0.8)
    panel.set_xticks(range(len(results)), [r["network"] for r in results], rotation=35, ha="right")


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


_FILE = click.Path(path_type=Path, exists=True)


@click.command()
@click.option("--latency", type=_FILE, multiple=True, help="May be repeated, for several targets.")
@click.option("--build", type=_FILE)
@click.option("--kernels", type=_FILE)
@click.option("--depth-first", type=_FILE)
@click.option("--arm64", type=_FILE, multiple=True, help="May be repeated: later files add to the earlier ones.")
def main(
    latency: tuple[Path, ...],
    build: Path | None,
    kernels: Path | None,
    depth_first: Path | None,
    arm64: tuple[Path, ...],
) -> None:
    """Write the page's tables and its pictures from what the other benchmarks wrote; what isn't given stays."""
    latencies = [_read(path) for path in latency]
    blocks: dict[str, str] = {}
    if latencies:
        blocks["latency"] = "\n\n".join(latency_table(report) for report in latencies)
        blocks["layers"] = layers_table(latencies)
        draw_bars(latencies, BARS)
    if build is not None:
        blocks["build"] = build_table(_read(build))
    if kernels is not None:
        blocks["kernels"] = kernel_table(_read(kernels))
        draw_roofline(_read(kernels), ROOFLINE)
    if depth_first is not None:
        blocks["depth_first"] = depth_first_table(_read(depth_first))
    if arm64:
        counted = merged([_read(path) for path in arm64])
        blocks["arm64"] = arm64_tables(counted)
        draw_arm64(counted, ARM64)
    page = PAGE.read_text(encoding="utf-8")
    for name, content in blocks.items():
        page = replace_block(page, name, content)
    PAGE.write_text(page, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


if __name__ == "__main__":
    main()
