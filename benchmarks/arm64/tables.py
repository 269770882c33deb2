"""Tables of executed instructions, from the records that the JSON file has, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.arm64.instructions import CLASSES

Result = dict[str, Any]
"""A library, counted; see `__main__.main`."""

_WHAT = ("network", "precision", "target")


def millions(count: int) -> str:
    """Return a number of instructions for people."""
    return f"{count / 1e6:.1f}" if count >= 1e5 else f"{count / 1e6:.3f}"


def classes_table(results: list[Result]) -> Table:
    """Return the instructions of each network by class."""
    table = Table(*_WHAT, "bytes", "all", *CLASSES, title="million instructions, by class")
    for result in results:
        table.add_row(
            *(result[key] for key in _WHAT),
            f"differ by {result['difference']:.0e}" if result["difference"] else "same",
            millions(result["instructions"]),
            *(millions(sum(layer["instructions"][name] for layer in result["layers"])) for name in CLASSES),
        )
    return table


def kinds_table(results: list[Result]) -> Table:
    """Return the instructions of each network by kind of layer."""
    kinds = list(dict.fromkeys(layer["kind"] for result in results for layer in result["layers"]))
    table = Table(*_WHAT, *kinds, title="million instructions, by kind of layer")
    for result in results:
        sums: Counter[str] = Counter()
        for layer in result["layers"]:
            sums[layer["kind"]] += sum(layer["instructions"].values())
        table.add_row(*(result[key] for key in _WHAT), *(millions(sums[kind]) for kind in kinds))
    return table


def layers_table(result: Result) -> Table:
    """Return the kernels of one network, those with the most instructions first."""
    title = f"{result['network']}, {result['precision']}, {result['target']}: million instructions, by kernel"
    table = Table(
        "kernel", "calls", "products", "all", "for each product", *CLASSES, "of these on the stack", title=title
    )
    for layer in sorted(result["layers"], key=lambda layer: -sum(layer["instructions"].values())):
        total = sum(layer["instructions"].values())
        table.add_row(
            layer["kernel"],
            str(layer["calls"]),
            millions(layer["multiply_adds"]),
            millions(total),
            f"{total / layer['multiply_adds']:.3f}" if layer["multiply_adds"] else "",
            *(millions(layer["instructions"][name]) for name in CLASSES),
            millions(layer["stack"]),
        )
    return table


def cores_table(result: Result, cores: Sequence[str]) -> Table:
    """Return what the kernels of one network cost on cores, those that cost the most first."""
    what = "million cycles by LLVM's models, and multiplier rate of the hot loop"
    title = f"{', '.join(result[key] for key in _WHAT)}: {what}"
    headings = (heading for core in cores for heading in (core, "hot loop"))
    table = Table("kernel", "calls", "products", *headings, title=title)
    layers = [layer for layer in result["layers"] if layer["costs"]]
    for layer in sorted(layers, key=lambda layer: -layer["costs"][cores[0]]["cycles"]):
        costs = [layer["costs"][core] for core in cores]
        cells = (cell for c in costs for cell in (f"{c['cycles'] / 1e6:.3f}", f"{c['hot_loop_rate']:.0%}"))
        table.add_row(layer["kernel"], str(layer["calls"]), millions(layer["multiply_adds"]), *cells)
    sums = (sum(layer["costs"][core]["cycles"] for layer in layers) for core in cores)
    table.add_row("all", "", "", *(cell for total in sums for cell in (f"{total / 1e6:.3f}", "")))
    return table


def peers_table(results: list[Result]) -> Table:
    """Return the instructions of each network beside the peers'."""
    peers = list(dict.fromkeys(peer for result in results for peer in result["peers"]))
    table = Table(*_WHAT, "cpu", "ours", *peers, "ours / best peer", title="million instructions")
    for result in results:
        counts = {peer: sum(best["instructions"].values()) for peer, best in result["peers"].items()}
        table.add_row(
            *(result[key] for key in (*_WHAT, "cpu")),
            millions(result["instructions"]),
            *(
                f"{millions(counts[peer])} {result['peers'][peer]['variant']}" if peer in counts else ""
                for peer in peers
            ),
            f"{result['instructions'] / min(counts.values()):.2f}" if counts else "",
        )
    return table
