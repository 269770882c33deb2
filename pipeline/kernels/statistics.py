"""Loops over values of tensors and over weights, for calibration and corrections, several times as fast as NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.buffers import folded, register_buffer, stack_buffer
from pipeline.kernels.lib.vectors import larger, smaller, span

WAYS = 2
"""How many histograms are counted in by turns, as successive values are often in the same bin."""

LANES = 16
"""Values that are looked at at once."""

_CHUNK = 64 * LANES
"""Values whose bins are computed at once, in vectors, before they are counted one by one."""


def extent_loop() -> tirx.PrimFunc:
    """Return a function of (values, ends, magnitude) that finds the least, the largest and the furthest value.

    values: [N] float32, 16 or more; ends: [2] float32, the least and the largest, neither of which is NaN; magnitude:
    [1] int32, the largest magnitude's bits, which are those of infinity or more if a value isn't finite.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        size = tirx.Var("size", "int64")
        values = T.arg("values", T.buffer((size,), "float32", align=4))
        ends = T.arg("ends", T.buffer((2,), "float32", align=4))
        magnitude = T.arg("magnitude", T.buffer((1,), "int32", align=4))
        least, largest = (register_buffer(LANES, "float32") for _ in range(2))
        furthest, lanes = register_buffer(LANES, "int32"), span(0, LANES)
        T.buffer_store(least, T.broadcast(T.float32(np.inf), LANES), [lanes])
        T.buffer_store(largest, T.broadcast(T.float32(-np.inf), LANES), [lanes])
        T.buffer_store(furthest, T.broadcast(T.int32(0), LANES), [lanes])
        with T.serial((size + LANES - 1) // LANES) as i:
            # The last vector may hold some values once more.
            v = values[span(T.min(i * LANES, size - LANES), LANES)]
            bits = T.bitwise_and(T.reinterpret(f"int32x{LANES}", v), T.broadcast(T.int32(0x7FFFFFFF), LANES))
            T.buffer_store(least, smaller(least[lanes], v), [lanes])
            T.buffer_store(largest, larger(largest[lanes], v), [lanes])
            T.buffer_store(furthest, T.max(furthest[lanes], bits), [lanes])
        T.buffer_store(ends, folded(least[lanes], smaller), [0])
        T.buffer_store(ends, folded(largest[lanes], larger), [1])
        T.buffer_store(magnitude, folded(furthest[lanes], T.max), [0])
    return builder.get()


def histogram_loop() -> tirx.PrimFunc:
    """Return a function of (values, counts, zeros, scale) that counts values in equal bins on both sides of zero.

    A value v below zero is counted in bin `bins - 1 + int(v * scale)`, any other in bin `bins + int(v * scale)`.

    values: [N] float32, of which `v * scale` is in (-bins, bins); counts: [WAYS, 2 * bins] int32, to which is added;
    zeros: [LANES] int32, to which is added how many values are 0, their sum over lanes; scale: float32.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        size, sides = (tirx.Var(name, "int64") for name in ("size", "sides"))
        values = T.arg("values", T.buffer((size,), "float32", align=4))
        counts = T.arg("counts", T.buffer((WAYS, sides), "int32", align=4))
        zeros = T.arg("zeros", T.buffer((LANES,), "int32", align=4))
        scale = T.arg("scale", T.float32())
        middle = T.cast(sides // 2, "int32")
        bins, found = stack_buffer(_CHUNK, "int32"), register_buffer(LANES, "int32")
        lanes = span(0, LANES)
        T.buffer_store(found, T.broadcast(T.int32(0), LANES), [lanes])
        with T.serial(size // _CHUNK) as chunk:
            with T.serial(_CHUNK // LANES) as i:
                v, nothing = values[span(chunk * _CHUNK + i * LANES, LANES)], T.broadcast(T.float32(0), LANES)
                below = T.cast(v < nothing, f"int32x{LANES}")
                scaled = T.cast(v * T.broadcast(scale, LANES), f"int32x{LANES}")
                T.buffer_store(bins, scaled - below + T.broadcast(middle, LANES), [span(i * LANES, LANES)])
                T.buffer_store(found, found[lanes] + T.cast(v == nothing, f"int32x{LANES}"), [lanes])
            with T.serial(_CHUNK // WAYS) as i:
                for way in range(WAYS):
                    at = [way, bins[i * WAYS + way]]
                    T.buffer_store(counts, counts[at] + 1, at)
        T.buffer_store(zeros, zeros[lanes] + found[lanes], [lanes])
        with T.serial(size % _CHUNK) as i:
            v = values[size // _CHUNK * _CHUNK + i]
            at = [0, T.cast(v * scale, "int32") - T.cast(v < T.float32(0), "int32") + middle]
            T.buffer_store(counts, counts[at] + 1, at)
            T.buffer_store(zeros, zeros[0] + T.cast(v == T.float32(0), "int32"), [0])
    return builder.get()


def channel_sums_loop() -> tirx.PrimFunc:
    """Return a function of (values, sums) that adds up the values of each channel, in order.

    values: [N,C] float32; sums: [C] float64, to which is added.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        rows, channels = (tirx.Var(name, "int64") for name in ("rows", "channels"))
        values = T.arg("values", T.buffer((rows, channels), "float32", align=4))
        sums = T.arg("sums", T.buffer((channels,), "float64", align=8))
        with T.serial(rows) as row, T.serial(channels) as channel:
            T.buffer_store(sums, sums[channel] + T.cast(values[row, channel], "float64"), [channel])
    return builder.get()


def unit_lower_loop() -> tirx.PrimFunc:
    """Return a function of (rest, lower) that writes L of H = L D L', unit lower triangular.

    rest: H [B,K,K] float64, positive definite, which is overwritten; lower: [B,K,K] float64, zeros at first.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        blocks, size = (tirx.Var(name, "int64") for name in ("blocks", "size"))
        rest = T.arg("rest", T.buffer((blocks, size, size), "float64", align=8))
        lower = T.arg("lower", T.buffer((blocks, size, size), "float64", align=8))
        with T.parallel(blocks) as b, T.serial(size) as i:
            T.buffer_store(lower, T.float64(1), [b, i, i])
            with T.serial(size - 1 - i) as row:
                at = [b, i + 1 + row, i]
                T.buffer_store(lower, rest[at] / rest[b, i, i], at)
                with T.serial(size - 1 - i) as column:
                    right = i + 1 + column
                    moved = _multiply_add(T.float64(0) - lower[at], rest[b, i, right], rest[b, i + 1 + row, right])
                    T.buffer_store(rest, moved, [b, i + 1 + row, right])
    return builder.get()


def rounding_loop() -> tirx.PrimFunc:
    """Return a function of (exact, lower, wanted, rounded, largest) that rounds weights in order, from the last on.

    After each, its error times a row of `lower` is added to what is wanted of those that are left. Results are limited
    to [-largest, largest], and weights beyond `largest` - 0.5 are rounded to the nearest.

    exact: [B,O,K] float64; lower: [B,K,K] float64; wanted: [B,O,K] float64, `exact` at first, which is overwritten;
    rounded: [B,O,K] float64; largest: float64.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        blocks, out, size = (tirx.Var(name, "int64") for name in ("blocks", "out", "size"))
        lower_type, type_ = (T.buffer((blocks, n, size), "float64", align=8) for n in (size, out))
        exact, lower = T.arg("exact", type_), T.arg("lower", lower_type)
        wanted, rounded = (T.arg(name, T.buffer((blocks, out, size), "float64", align=8)) for name in ("w", "r"))
        largest = T.arg("largest", T.float64())
        with T.parallel(blocks * out) as p, T.serial(size) as done:
            b, o, i = p // out, p % out, size - 1 - done
            weight = exact[b, o, i]
            pinned = T.fabs(weight) > largest - T.float64(0.5)
            nearest = T.call_llvm_pure_intrin("float64", "llvm.rint.f64", T.Select(pinned, weight, wanted[b, o, i]))
            T.buffer_store(rounded, T.max(T.min(nearest, largest), T.float64(0) - largest), [b, o, i])
            with T.serial(i) as j:
                moved = _multiply_add(weight - rounded[b, o, i], lower[b, i, j], wanted[b, o, j])
                T.buffer_store(wanted, moved, [b, o, j])
    return builder.get()


def _multiply_add(a: Any, b: Any, c: Any) -> Any:
    """Return `a * b + c`, float64, rounded once on any CPU: LLVM would do so only on those that have an instruction."""
    return T.call_llvm_pure_intrin("float64", "llvm.fma.f64", a, b, c)
