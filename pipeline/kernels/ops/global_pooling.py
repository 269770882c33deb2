"""`nn.avg_pool2d` and `qnn.avg_pool2d` of whole images: each thread sums the pixels of a part of them.

    for image:
        for part of its pixels, in parallel:
            for block of channels:                 some vectors, in registers
                for pixel of the part:             unrolled: add each vector
        for vector of channels:                    the parts' sums added, and finished

Threads that each took some channels would all read all cache lines.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.loops import Run, loop_for
from pipeline.kernels.lib.vectors import span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.ops.pooling import Reduction, float_mean, integer_mean
from pipeline.ops import QAvgPool2d

PARTS = 8
"""How many parts an image's pixels are divided into for the threads."""

BLOCK = 8
"""How many vectors of channels are summed together at most: so many independent sums keep the CPU's ports busy."""


def floating(operation: Operation, machine: Machine) -> Kernel:
    """Sums in float32."""
    isa = machine.isa
    return Kernel(_function(operation, isa.lanes, float_mean()), (0, operation.constants[1]))


def integer(operation: Operation, machine: Machine) -> Kernel:
    """Sums in int32."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, QAvgPool2d):
        raise TypeError(f"Expected qnn.avg_pool2d, got {operator}")
    return Kernel(_function(operation, isa.lanes, integer_mean(operator, isa, "int32")), (0, operation.constants[1]))


def _function(operation: Operation, lanes: int, reduction: Reduction) -> tirx.PrimFunc:
    source, target = operation.inputs[0], operation.output
    batch, height, width, channels = source.shape
    pixels, run = height * width, Run.of(channels, lanes)
    per_part = -(-pixels // PARTS) if source.size // batch >= PARTS * lanes * BLOCK else pixels
    parts = -(-pixels // per_part)
    blocks = -(-run.steps // BLOCK)
    block = -(-run.steps // blocks)
    vector = vector_type(reduction.dtype, run.width)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), source.dtype))
        multiplier = T.arg("multiplier", T.buffer((1, 1), "float32"))
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        sums = T.alloc_buffer((parts * channels,), reduction.dtype)
        with T.serial(batch) as image:
            with loop_for(source.size // batch, parts)(parts) as p, T.serial(blocks) as b:
                acc = register_buffer(block * run.width, reduction.dtype)
                registers = [span(v * run.width, run.width) for v in range(block)]
                # The last block overlaps the one before, as the last vector does.
                first: Any = tails.start(b, block, run.steps)
                starts = [run.start(0, first + v) for v in range(block)]
                for register in registers:
                    T.buffer_store(acc, splat(reduction.start, run.width), [register])
                with T.serial(T.min(per_part, pixels - p * per_part)) as i:
                    pixel = (image * pixels + p * per_part + i) * channels
                    for register, start in zip(registers, starts, strict=True):
                        value = T.cast(x[span(pixel + start, run.width)], vector)
                        T.buffer_store(acc, reduction.combine(acc[register], value), [register])
                for register, start in zip(registers, starts, strict=True):
                    T.buffer_store(sums, acc[register], [span(p * channels + start, run.width)])
            with T.serial(run.steps) as step:
                start = run.start(0, step)
                total = sums[span(start, run.width)]
                for p in range(1, parts):
                    total = reduction.combine(total, sums[span(p * channels + start, run.width)])
                result = reduction.finish(total, pixels, multiplier[0, 0])
                T.buffer_store(y, result, [span(image * channels + start, run.width)])
    return builder.get()
