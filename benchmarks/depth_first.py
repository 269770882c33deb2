"""What depth-first fusion could gain: pairs of layers, whole one after the other, or band by band.

    python -m benchmarks.depth_first [--rounds 200] [--json FILE]

A band is some rows of the second layer's output. What the first layer makes for a band stays in the caches until the
second has used it, as in a fused kernel; rows that two bands need are computed twice. Both ways take turns, and each
one's shortest time counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")

import click
import numpy as np
import rich
import tvm
from rich.table import Table

from benchmarks.kernels import Array, compiled
from benchmarks.machine import cpu_name
from pipeline.compiler.lower import machine_of
from pipeline.ir.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Operation
from pipeline.ops import QConv2d
from pipeline.targets import load_target

BANDS = (2, 4, 8)


@dataclass(frozen=True)
class Pair:
    """A 1x1 convolution and a 3x3 depthwise one behind it, or the other way round, with a halo of one pixel.

    Attributes:
        name: for people.
        size: height and width of the depthwise layer's input, without the halo.
        narrow: channels on the pointwise layer's other side.
        wide: channels of the depthwise layer.
        stride: of the depthwise layer.
        expands: whether the pointwise layer comes first.
    """

    name: str
    size: int
    narrow: int
    wide: int
    stride: int
    expands: bool

    @property
    def rows(self) -> int:
        """Rows of the depthwise layer's output."""
        return self.size // self.stride


PAIRS = (
    Pair("MobileNetV2: 1x1, 16 to 96, depthwise, stride 2", 112, 16, 96, 2, True),
    Pair("MobileNetV2: 1x1, 24 to 144, depthwise", 56, 24, 144, 1, True),
    Pair("MobileNetV2: 1x1, 32 to 192, depthwise", 28, 32, 192, 1, True),
    Pair("MobileNetV1: 1x1, 32 to 64, depthwise, stride 2", 112, 32, 64, 2, True),
    Pair("MobileNetV2: depthwise, 1x1, 32 to 16", 112, 16, 32, 1, False),
    Pair("MobileNetV2: depthwise, 1x1, 144 to 24", 56, 24, 144, 1, False),
    Pair("MobileNetV1: depthwise, 1x1, 128 to 128", 56, 128, 128, 1, False),
    Pair("EfficientNet at 384x384: 1x1, 24 to 144, depthwise, stride 2", 192, 24, 144, 2, True),
)


class Layer:
    """A compiled convolution with its tensors."""

    def __init__(self, operator: QConv2d, x: Array, weight: Array, machine: Machine, target: tvm.target.Target) -> None:
        arguments = [x, weight, np.zeros(len(weight), "int32"), np.full(len(weight), 1e-4, "float32")]
        inputs = tuple(TensorType(a.shape, str(a.dtype)) for a in arguments)
        operation = Operation(operator, inputs, operator.infer(*inputs), dict(enumerate(arguments[1:], 1)))
        kernel = registry.select(operation, machine).generate(operation, machine)
        self.function = compiled(kernel.func, target)["main"]
        shapes = [tuple(int(d) for d in p.shape) for p in kernel.func.params]
        values = [arguments[a] if isinstance(a, int) else a for a in kernel.arguments]
        self.constants = [tvm.runtime.tensor(v.reshape(s)) for v, s in zip(values[1:], shapes[1:-1], strict=True)]
        self.shapes = shapes[0], shapes[-1]

    def tensors(self) -> tuple[Any, Any]:
        """Return a new input and output."""
        return tuple(tvm.runtime.tensor(np.ones(shape, "uint8")) for shape in self.shapes)  # type: ignore[return-value]


def calls(pair: Pair, bands: int, machine: Machine, target: tvm.target.Target) -> Iterator[tuple[Any, ...]]:
    """Yield what is to be called for a pair, band by band: functions with their arguments."""
    random = np.random.default_rng(0)
    rows = pair.rows // bands
    padded_rows, padded_columns = (rows - 1) * pair.stride + 3, pair.size + 2
    depthwise = Layer(
        QConv2d(strides=(pair.stride, pair.stride), groups=pair.wide, output_zero_point=3),
        np.ones((1, padded_rows, padded_columns, pair.wide), "uint8"),
        random.integers(-127, 128, (pair.wide, 3, 3, 1), "int8"),
        machine,
        target,
    )
    if pair.expands:
        inside, out, halo = (padded_rows, pair.size), (pair.narrow, pair.wide), (0, 1, 0, 1)
    else:
        inside, out, halo = (rows, pair.rows), (pair.wide, pair.narrow), (0, 0, 0, 0)
    pointwise = Layer(
        QConv2d(output_zero_point=3, halo=halo, halo_value=3),
        np.ones((1, *inside, out[0]), "uint8"),
        random.integers(-127, 128, (out[1], 1, 1, out[0]), "int8"),
        machine,
        target,
    )
    first, second = (pointwise, depthwise) if pair.expands else (depthwise, pointwise)
    between = first.tensors()[1]
    for _ in range(bands):
        yield first.function, first.tensors()[0], *first.constants, between
        yield second.function, between, *second.constants, second.tensors()[1]


def measure(pair: Pair, rounds: int, machine: Machine, target: tvm.target.Target) -> dict[int, float]:
    """Return the shortest time in seconds by the number of bands; 1 is the whole layers."""
    choices = {bands: list(calls(pair, bands, machine, target)) for bands in (1, *BANDS) if pair.rows % bands == 0}
    shortest = dict.fromkeys(choices, float("inf"))
    for _ in range(rounds):
        for bands, functions in choices.items():
            start = time.perf_counter()
            for function, *arguments in functions:
                function(*arguments)
            shortest[bands] = min(shortest[bands], time.perf_counter() - start)
    return shortest


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=200, show_default=True, help="Turns of each way.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
def main(rounds: int, json_path: Path | None) -> None:
    """Compare whole layers with bands of them."""
    description = load_target("host")
    target, machine = description.tvm_target(), machine_of(description)
    results = {pair: measure(pair, rounds, machine, target) for pair in PAIRS}
    table = Table(title="Depth first, one thread", caption=f"{cpu_name()}, {description.name}")
    for heading in ("layers", "between, kB", "whole, us", *(f"{bands} bands" for bands in BANDS)):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    for pair, times in results.items():
        between = (pair.size if pair.expands else pair.rows) ** 2 * pair.wide / 1000
        ratios = [f"{times[b] / times[1]:.2f}" if b in times else "" for b in BANDS]
        table.add_row(pair.name, f"{between:.0f}", f"{times[1] * 1e6:.0f}", *ratios)
    rich.print(table)
    if json_path is not None:
        content = {"cpu": cpu_name(), "target": description.name, "seconds": {p.name: t for p, t in results.items()}}
        json_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
