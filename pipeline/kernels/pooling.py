"""`nn.max_pool2d` and `qnn.avg_pool2d`: vectors of channels, pixels outside the image left out."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from pipeline.dialect.attributes import MaxPool2d, QAvgPool2d
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.loops import Run, loop_for
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.registry import kernel
from pipeline.kernels.requantize import rounded, saturate
from pipeline.kernels.vectors import span, splat, vector_type


@kernel(MaxPool2d, isa="portable")
def max_pool2d(operation: Operation, isa: InstructionSet) -> Kernel:
    """Largest value of each window."""
    attrs, source, target = operation.attrs, operation.inputs[0], operation.output
    if not isinstance(attrs, MaxPool2d):
        raise TypeError(f"Expected nn.max_pool2d, got {attrs}")
    _, height, width, channels = source.shape
    batch, out_h, out_w, _ = target.shape
    (window_h, window_w), (stride_h, stride_w), (dilation_h, dilation_w) = (
        attrs.pool_size,
        attrs.strides,
        attrs.dilation,
    )
    top, left = attrs.padding[:2]
    run = Run.of(channels, isa.lanes * (4 if source.dtype == "uint8" else 1))
    pixels = batch * out_h * out_w
    loop = loop_for(target.size, pixels)

    def lowest() -> Any:
        return splat(T.uint8(0) if source.dtype == "uint8" else T.float32(float("-inf")), run.width)

    def larger(a: Any, b: Any) -> Any:
        return T.max(a, b)

    def y_of(p: Any, ky: Any) -> Any:
        return p // out_w % out_h * stride_h - top + ky * dilation_h

    def x_of(p: Any, kx: Any) -> Any:
        return p % out_w * stride_w - left + kx * dilation_w

    def offset(p: Any, ky: Any, kx: Any) -> Any:
        return ((p // (out_h * out_w) * height + y_of(p, ky)) * width + x_of(p, kx)) * channels

    @T.prim_func
    def func(x: T.Buffer((source.size,), source.dtype), y: T.Buffer((target.size,), target.dtype)):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        for p in loop(pixels):
            best = T.alloc_buffer((run.width,), source.dtype, scope="local")
            for s in T.serial(run.steps):
                best[span(0, run.width)] = lowest()
                for ky in T.serial(window_h):
                    if T.And(y_of(p, ky) >= 0, y_of(p, ky) < height):
                        for kx in T.serial(window_w):
                            if T.And(x_of(p, kx) >= 0, x_of(p, kx) < width):
                                best[span(0, run.width)] = larger(
                                    best[span(0, run.width)], x[span(offset(p, ky, kx) + run.start(0, s), run.width)]
                                )
                y[span(p * channels + run.start(0, s), run.width)] = best[span(0, run.width)]

    return Kernel(func, (0,))


@kernel(QAvgPool2d, isa="portable")
def avg_pool2d(operation: Operation, isa: InstructionSet) -> Kernel:
    """Sum of each window, requantized with the position's own multiplier."""
    attrs, source, target = operation.attrs, operation.inputs[0], operation.output
    if not isinstance(attrs, QAvgPool2d):
        raise TypeError(f"Expected qnn.avg_pool2d, got {attrs}")
    _, height, width, channels = source.shape
    batch, out_h, out_w, _ = target.shape
    (window_h, window_w), (stride_h, stride_w) = attrs.pool_size, attrs.strides
    top, left = attrs.padding[:2]
    run = Run.of(channels, isa.lanes * 4)
    vectors = run.steps
    pixels = batch * out_h * out_w
    loop = loop_for(source.size, pixels * vectors)

    def first(position: Any, stride: int, before: int) -> Any:
        return T.max(position * stride - before, 0)

    def count(position: Any, stride: int, before: int, window: int, size: int) -> Any:
        return T.min(position * stride - before + window, size) - first(position, stride, before)

    def row(p: Any) -> Any:
        return p // vectors // out_w % out_h

    def column(p: Any) -> Any:
        return p // vectors % out_w

    def rows(p: Any) -> Any:
        return count(row(p), stride_h, top, window_h, height)

    def columns(p: Any) -> Any:
        return count(column(p), stride_w, left, window_w, width)

    def offset(p: Any, ky: Any, kx: Any) -> Any:
        y = p // vectors // (out_h * out_w) * height + first(row(p), stride_h, top) + ky
        return (y * width + first(column(p), stride_w, left) + kx) * channels + run.start(0, p % vectors)

    def widened(codes: Any) -> Any:
        return T.cast(codes, vector_type("int32", run.width))

    def finish(acc: Any, p: Any, multiplier: Any) -> Any:
        centred = acc - splat(rows(p) * columns(p) * attrs.input_zero_point, run.width)
        scaled = T.cast(centred, vector_type("float32", run.width)) * splat(multiplier, run.width)
        return saturate(rounded(scaled), attrs)

    @T.prim_func
    def func(
        x: T.Buffer((source.size,), "uint8"),
        multiplier: T.Buffer((out_h * out_w,), "float32"),
        y: T.Buffer((target.size,), "uint8"),
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        for p in loop(pixels * vectors):
            acc = T.alloc_buffer((run.width,), "int32", scope="local")
            acc[span(0, run.width)] = splat(T.int32(0), run.width)
            for ky in T.serial(rows(p)):
                for kx in T.serial(columns(p)):
                    acc[span(0, run.width)] = acc[span(0, run.width)] + widened(x[span(offset(p, ky, kx), run.width)])
            y[span(p // vectors * channels + run.start(0, p % vectors), run.width)] = finish(
                acc[span(0, run.width)], p, multiplier[p // vectors % (out_h * out_w)]
            )

    return Kernel(func, (0, operation.constants[1].reshape(-1)))
