"""Speed of convolution and matrix product kernels on this machine, one thread, next to what its CPU can do at most.

    python -m benchmarks.kernels [--dtype float32] [--rounds 30] [--only 1x1] [--json FILE]

The ceiling is measured in the same run: a loop over the instruction set's multiply-add that never leaves the
registers; and so is what a copy moves, of a small and a large buffer. Kernels take turns for some rounds, and each
one's shortest time counts, so that a busy machine disturbs all of them alike. Times don't hold from one run or machine
to the next; shares of the ceiling mostly do.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")

import click
import numpy as np
import numpy.typing as npt
import rich
import tvm
from rich.table import Table

from benchmarks.machine import cpu_name
from pipeline.compiler.kernel_passes import code_generation
from pipeline.compiler.lower import machine_of
from pipeline.cpu import missing_features
from pipeline.ir.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.probes import copy_probe, peak_probe
from pipeline.ops import Conv2d, Operator, QConv2d
from pipeline.quantization.weights import short_multipliers
from pipeline.targets import load_target

Array = npt.NDArray[Any]

ROUND_SECONDS = 0.002

COPY_BYTES = (512 * 1024, 32 * 1024**2)
"""Bytes that the copies read and write: some that stay in the second-level cache, and some that stay in none."""


@dataclass(frozen=True)
class Layer:
    """A convolution without padding: `size` is the padded input's height and width."""

    name: str
    size: int
    channels_in: int
    channels_out: int
    kernel: int
    stride: int = 1
    groups: int = 1


LAYERS = (
    Layer("3x3 of 56x56, 64 to 64", 58, 64, 64, 3),
    Layer("3x3 of 28x28, 128 to 128", 30, 128, 128, 3),
    Layer("3x3 of 14x14, 256 to 256", 16, 256, 256, 3),
    Layer("3x3 of 7x7, 512 to 512", 9, 512, 512, 3),
    Layer("3x3 stride 2 of 56x56, 64 to 128", 57, 64, 128, 3, 2),
    Layer("1x1 stride 2 of 56x56, 64 to 128", 56, 64, 128, 1, 2),
    Layer("7x7 stride 2 of 224x224, 3 to 64", 229, 3, 64, 7, 2),
    Layer("3x3 stride 2 of 224x224, 3 to 32", 225, 3, 32, 3, 2),
    Layer("1x1 of 112x112, 32 to 64", 112, 32, 64, 1),
    Layer("1x1 of 56x56, 128 to 128", 56, 128, 128, 1),
    Layer("1x1 of 28x28, 256 to 256", 28, 256, 256, 1),
    Layer("1x1 of 14x14, 512 to 512", 14, 512, 512, 1),
    Layer("1x1 of 7x7, 1024 to 1024", 7, 1024, 1024, 1),
    Layer("1x1 of 56x56, 24 to 144", 56, 24, 144, 1),
    Layer("1x1 of 56x56, 144 to 24", 56, 144, 24, 1),
    Layer("1x1 of 14x14, 96 to 576", 14, 96, 576, 1),
    Layer("classifier, 2048 to 1000", 1, 2048, 1000, 1),
    Layer("depthwise 3x3 of 112x112x32", 114, 1, 1, 3, groups=32),
    Layer("depthwise 3x3 of 56x56x128", 58, 1, 1, 3, groups=128),
    Layer("depthwise 3x3 of 56x56x144", 58, 1, 1, 3, groups=144),
    Layer("depthwise 3x3 of 28x28x192", 30, 1, 1, 3, groups=192),
    Layer("depthwise 3x3 of 28x28x256", 30, 1, 1, 3, groups=256),
    Layer("depthwise 3x3 of 14x14x512", 16, 1, 1, 3, groups=512),
    Layer("depthwise 3x3 of 7x7x1024", 9, 1, 1, 3, groups=1024),
    Layer("depthwise 3x3 stride 2 of 112x112x64", 113, 1, 1, 3, 2, groups=64),
    Layer("depthwise 5x5 of 28x28x120", 32, 1, 1, 5, groups=120),
)


@dataclass
class Program:
    """A compiled kernel.

    Attributes:
        name: of the layer.
        module: has the kernel as `main`.
        arguments: tensors, or a number of tasks.
        products: multiply-adds of a call.
        moved: bytes that it reads and writes at least.
        seconds: shortest time seen.
    """

    name: str
    module: tvm.runtime.Module
    arguments: list[Any]
    products: int
    moved: int
    seconds: float = float("inf")

    def measure(self) -> None:
        """Run for about `ROUND_SECONDS` and keep the time of one call if it is the shortest."""
        guess = self.seconds if np.isfinite(self.seconds) else ROUND_SECONDS
        timer = self.module.time_evaluator("main", tvm.cpu(), number=max(1, int(ROUND_SECONDS / guess)), repeat=1)
        self.seconds = min(self.seconds, *timer(*self.arguments).results)

    @property
    def speed(self) -> float:
        """Multiply-adds per nanosecond."""
        return self.products / self.seconds * 1e-9

    @property
    def bandwidth(self) -> float:
        """Bytes per nanosecond."""
        return self.moved / self.seconds * 1e-9


def layer_program(layer: Layer, dtype: str, machine: Machine, target: tvm.target.Target) -> Program:
    """Compile a layer as the pipeline does."""
    random = np.random.default_rng(0)
    x_shape = (1, layer.size, layer.size, layer.groups * layer.channels_in)
    weight_shape = (layer.groups * layer.channels_out, layer.kernel, layer.kernel, layer.channels_in)
    strides = (layer.stride, layer.stride)
    operator: Operator
    if dtype == "float32":
        operator = Conv2d(strides=strides, groups=layer.groups, clip_min=0.0)
        arguments = [random.standard_normal(s).astype("float32") for s in (x_shape, weight_shape, weight_shape[:1])]
    else:
        operator = QConv2d(strides=strides, groups=layer.groups, output_zero_point=3)
        x, bias = random.integers(0, 256, x_shape, "uint8"), random.integers(-1000, 1000, weight_shape[0], "int32")
        # Weights of networks are distributed like this, not uniformly: it decides how large sums can be.
        weight = np.clip(np.rint(32 * random.standard_normal(weight_shape)), -127, 127).astype("int8")
        arguments = [x, weight, bias, short_multipliers(np.full(weight_shape[0], 1e-4))]
    inputs = tuple(TensorType(a.shape, str(a.dtype)) for a in arguments)
    operation = Operation(operator, inputs, operator.infer(*inputs), dict(enumerate(arguments[1:], 1)))
    kernel = registry.select(operation, machine).generate(operation, machine)
    values = [arguments[a] if isinstance(a, int) else a for a in kernel.arguments]
    products = operation.output.size * arguments[1][0].size
    return _program(
        layer.name, kernel, [*values, np.zeros(operation.output.shape, operation.output.dtype)], products, target
    )


def ceiling_program(dtype: str, machine: Machine, target: tvm.target.Target) -> Program:
    """Compile a loop of multiply-adds that has all it needs in registers, for one task."""
    probe = peak_probe(dtype, machine.isa)
    buffers = [tvm.runtime.tensor(np.ones(elements, kind)) for elements, kind in probe.buffers]
    return Program("ceiling", compiled(probe.func, target), [*buffers, 1], probe.multiply_adds, 0)


def copy_program(moved: int, machine: Machine, target: tvm.target.Target) -> Program:
    """Compile a copy that reads and writes `moved` bytes in all, once, in one task."""
    size = moved // 2
    buffers = [tvm.runtime.tensor(np.ones(size, "uint8")) for _ in range(2)]
    vectors, rounds, tasks = size // (4 * machine.isa.lanes), 1, 1
    return Program(
        "copy", compiled(copy_probe(machine.isa, size), target), [*buffers, vectors, rounds, tasks], 0, moved
    )


def _program(name: str, kernel: Kernel, values: list[Array], products: int, target: tvm.target.Target) -> Program:
    shapes = [tuple(int(d) for d in p.shape) for p in kernel.func.params]
    buffers = [tvm.runtime.tensor(v.reshape(s)) for v, s in zip(values, shapes, strict=True)]
    return Program(name, compiled(kernel.func, target), buffers, products, sum(v.nbytes for v in values))


def compiled(func: tvm.tirx.PrimFunc, target: tvm.target.Target) -> tvm.runtime.Module:
    """Return the module of one function, called `main`."""
    with code_generation():
        return tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target).mod


@click.command()
@click.option("--dtype", type=click.Choice(["int8", "float32"]), default="int8", show_default=True)
@click.option("--target", "target_name", default="host", show_default=True, help="A target that this machine can run.")
@click.option("--rounds", type=click.IntRange(min=1), default=30, show_default=True, help="Turns of each kernel.")
@click.option("--only", default="", help="Measure layers whose name contains this text.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
def main(dtype: str, target_name: str, rounds: int, only: str, json_path: Path | None) -> None:
    """Measure kernels for standard layers."""
    description = load_target(target_name)
    # Asking for them is also how a process gets tile registers.
    if missing := missing_features(description.architecture, description.required_features):
        raise click.ClickException(f"This machine can't run {description.name}: it lacks {', '.join(missing)}.")
    target, machine = description.tvm_target(), machine_of(description)
    ceiling = ceiling_program(dtype, machine, target)
    programs = [layer_program(layer, dtype, machine, target) for layer in LAYERS if only in layer.name]
    copies = [copy_program(moved, machine, target) for moved in COPY_BYTES]
    for _ in range(rounds):
        for program in (ceiling, *copies, *programs):
            program.measure()
    environment = {
        "cpu": cpu_name(),
        "target": description.name,
        "instruction_set": machine.isa.name,
        "python": platform.python_version(),
        "tvm": tvm.__version__,
        "llvm": str(tvm.target.codegen.llvm_version_major()),
        "numpy": np.__version__,
    }
    table = Table(title=f"{dtype}, one thread", caption=", ".join(f"{k} {v}" for k, v in environment.items()))
    for heading in ("layer", "us", "GMAC/s", "ceiling", "Gout/s"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    table.add_row("ceiling", "", f"{ceiling.speed:.1f}", "100 %", "")
    for program in programs:
        outputs = program.arguments[-1].numpy().size / program.seconds * 1e-9
        share = f"{program.speed / ceiling.speed:.0%}".replace("%", " %")
        row = (f"{program.seconds * 1e6:.1f}", f"{program.speed:.1f}", share, f"{outputs:.2f}")
        table.add_row(program.name, *row)
    rich.print(table)
    if json_path is not None:
        layers = {p.name: {"seconds": p.seconds, "gmac_per_second": p.speed, "bytes": p.moved} for p in programs}
        result = {
            "environment": environment,
            "dtype": dtype,
            "ceiling_gmac_per_second": ceiling.speed,
            "copy_gb_per_second": {str(c.moved): c.bandwidth for c in copies},
            "layers": layers,
        }
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
