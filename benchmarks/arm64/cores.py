"""Estimates what executed instructions cost on cores that aren't here, by LLVM's models of these: `llvm-mca`.

Each block of instructions costs what it costs in the long run if it is repeated, times how often it ran. Caches,
branches that are guessed wrong, and what overlaps between different blocks aren't in it, so these are cycles to compare
kernels by, not times.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click

from benchmarks.arm64.counting import Block
from benchmarks.arm64.instructions import FEATURES, class_of

CORES = {
    "cortex-a53": "cortex-a53",
    "cortex-a55": "cortex-a55",
    "cortex-a76": "neoverse-n1",
    "cortex-x1": "neoverse-v1",
}
"""Cores, and LLVM's name of the core whose model fits: it takes an older one for the Cortex-A76 and the Cortex-X1, and
has models of the server cores that were made of these."""

_TOOLS = ("llvm-mca-22", "llvm-mca-19", "llvm-mca")
"""The newest first: older ones have fewer models."""

_MULTIPLIES = frozenset({"dot", "matrix", "integer multiply", "float multiply"})
_ITERATIONS = 100
_MOST_REGIONS = 500


@dataclass(frozen=True)
class Costs:
    """What a kernel costs on a core.

    Attributes:
        cycles: in all.
        hot_loop_rate: share of the rate at which the core multiplies, in the loop that costs the most: what its
            multiplications alone would take at least, by what it takes.
    """

    cycles: float
    hot_loop_rate: float


def estimate(
    kernels: Mapping[str, Sequence[Mapping[Block, int]]], texts: Mapping[int, str], core: str
) -> dict[str, Costs]:
    """Return the costs of kernels.

    Args:
        kernels: by name, which blocks ran how often.
        texts: of the instructions.
        core: in `CORES`.
    """
    runs = {name: _merged(counts, texts) for name, counts in kernels.items()}
    pieces = {piece for count in runs.values() for piece in count}
    products = {piece: _products(piece, texts) for piece in pieces}
    costs = _simulate([*pieces, *products.values()], texts, core)
    result = {}
    for name, count in runs.items():
        cycles = {piece: times * costs[piece].cycles for piece, times in count.items()}
        hot = max(cycles, key=cycles.__getitem__, default=())
        least = costs[products[hot]].least_cycles if hot else 0.0
        result[name] = Costs(sum(cycles.values()), least / costs[hot].cycles if hot else 0.0)
    return result


_Piece = tuple[int, ...]
"""Instructions in a row."""


@dataclass(frozen=True)
class _Simulated:
    """What a piece takes if it is repeated, and what it would take without waiting for results, in cycles."""

    cycles: float
    least_cycles: float


def _merged(counts: Iterable[Mapping[Block, int]], texts: Mapping[int, str]) -> Counter[_Piece]:
    """Return how often pieces ran; blocks that continue each other, as where a page ends, are one piece."""
    runs: Counter[Block] = Counter()
    for count in counts:
        runs.update(count)
    following = {(block.address, times): block for block, times in runs.items()}
    continued = {
        block: following[after, times]
        for block, times in runs.items()
        if class_of(texts[block.instructions[-1]]) != "branch"
        and (after := block.address + 4 * len(block.instructions), times) in following
    }
    inner = set(continued.values())
    pieces: Counter[_Piece] = Counter()
    for first, times in runs.items():
        if first not in inner:
            block, piece = first, first.instructions
            while block in continued:
                block = continued[block]
                piece += block.instructions
            pieces[piece] += times
    return pieces


def _products(piece: _Piece, texts: Mapping[int, str]) -> _Piece:
    return tuple(word for word in piece if class_of(texts[word]) in _MULTIPLIES)


def _simulate(pieces: Iterable[_Piece], texts: Mapping[int, str], core: str) -> dict[_Piece, _Simulated]:
    tool = next((tool for tool in _TOOLS if shutil.which(tool)), None)
    if tool is None:
        raise click.ClickException("llvm-mca isn't installed; on Debian: apt-get install llvm-19")
    command = [tool, "-mtriple=aarch64", f"-mcpu={CORES[core]}", FEATURES, f"-iterations={_ITERATIONS}", "--json"]
    command += ["--instruction-info=false", "--resource-pressure=false"]
    nothing = _Simulated(0.0, 0.0)
    bodies = {piece: [texts[word] for word in piece if _is_modelled(texts[word])] for piece in set(pieces)}
    result = {piece: nothing for piece, body in bodies.items() if not body}
    rest = [piece for piece, body in bodies.items() if body]
    for begin in range(0, len(rest), _MOST_REGIONS):
        part = rest[begin : begin + _MOST_REGIONS]
        lines = [
            line
            for i, piece in enumerate(part)
            for line in (f"# LLVM-MCA-BEGIN {i}", *bodies[piece], f"# LLVM-MCA-END {i}")
        ]
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr}")
        for region in json.loads(done.stdout)["CodeRegions"]:
            summary = region["SummaryView"]
            simulated = _Simulated(summary["TotalCycles"] / _ITERATIONS, summary["BlockRThroughput"])
            result[part[int(region["Name"])]] = simulated
    return result


def _is_modelled(text: str) -> bool:
    """Return whether LLVM knows what an instruction costs: not of calls, which it takes for slow."""
    return text.partition(" ")[0] not in ("bl", "blr", "br", "ret", "svc") and not text.startswith(".inst")
