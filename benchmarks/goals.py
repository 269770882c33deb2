"""How fast a library is to be beside the better peer, and which layers hold it back where it isn't."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pipeline
from pipeline.profiling.profile import OperatorProfile

SHOWN = 4
"""Layers that are named."""

FLOAT32 = 1.1
"""Ratio of the shortest runs, ours to the better peer's; the same for all networks and numbers of threads."""

VNNI = {
    "resnet18": (0.80, 0.87),
    "resnet50": (0.78, 0.88),
    "mobilenet_v1": (0.68, 0.70),
    "mobilenet_v2": (0.55, 0.60),
    "efficientnet-lite0": (0.54, 0.80),
    "pp-ocr-detection": (0.48, 0.80),
    "pp-ocr-recognition": (0.64, 0.80),
}
"""The same for int8 on one and on more threads, everybody without tile registers."""

AMX = {
    "resnet18": (0.60, 0.65),
    "resnet50": (0.62, 0.67),
    "mobilenet_v1": (0.55, 0.60),
    "mobilenet_v2": (0.45, 0.50),
    "efficientnet-lite0": (0.46, 0.65),
    "pp-ocr-detection": (0.35, 0.65),
    "pp-ocr-recognition": (0.40, 0.65),
}
"""The same with tile registers."""

WITHOUT_DOT_PRODUCTS = {"mobilenet_v1": (0.90, 0.90), "mobilenet_v2": (0.80, 0.80)}
"""The same where vectors have no products of bytes: peers let them saturate there, we don't. Others: 1."""

GOALS = {"amx_int8": AMX, **dict.fromkeys(("sse41", "avx2", "avx512"), WITHOUT_DOT_PRODUCTS)}
"""By instruction set; others have `VNNI`."""


@dataclass(frozen=True)
class HeldBack:
    """A layer that takes longer than it has to.

    Attributes:
        name: the tensor that it computes.
        kernel: the function that computes it.
        microseconds: of its shortest run.
        of_limit: share of what this machine could do: the longer one of computing and moving.
        share: of the time that all layers lose against their limits.
    """

    name: str
    kernel: str
    microseconds: float
    of_limit: float
    share: float


def goal(network: str, precision: str, threads: int, target: str) -> float:
    """Return the ratio that a network is to reach."""
    if precision == "float32":
        return FLOAT32
    goals = GOALS.get(pipeline.load_target(target).instruction_set, VNNI)
    return goals.get(network, (1.0, 1.0))[min(threads, 2) - 1]


def held_back_by(library: Path, threads: int) -> list[HeldBack]:
    """Return the layers that lose the most time against their own limits, which are measured now."""
    operators = pipeline.profile(library, threads=threads, repeats=20).operators
    total = sum(_lost(o) for o in operators)
    worst = sorted(operators, key=_lost, reverse=True)[:SHOWN]
    return [HeldBack(o.name, o.kernel, o.minimum_us, o.of_limit or 0.0, _lost(o) / total) for o in worst]


def _lost(operator: OperatorProfile) -> float:
    return operator.minimum_us * max(0.0, 1 - (operator.of_limit or 0.0))
