"""Loops over values of tensors and over weights, for calibration and corrections, several times as fast as NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.buffers import prefetch, register_buffer, stack_buffer
from pipeline.kernels.lib.vectors import larger, smaller, span

WAYS = 2
"""How many histograms are counted in by turns, as successive values are often in the same bin."""

LANES = 16
"""Values that are looked at at once."""

_CHUNK = 32 * LANES
"""Values whose bins are computed at once, in vectors, before they are counted one by one."""


def extent_loop() -> tirx.PrimFunc:
    """Return a function of (values, ends, magnitude) that finds the least, the largest and the furthest value.

    values: [N] float32, 16 or more; ends: [1,2,LANES] float32, of which the least and the largest of both rows are
    those of the values, and aren't NaN; magnitude: [1,LANES] int32, the largest of which is the bits of the largest
    magnitude, which are those of infinity or more if a value isn't finite.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        size = tirx.Var("size", "int64")
        values = T.arg("values", T.buffer((size,), "float32", align=4))
        ends = T.arg("ends", T.buffer((1, 2, LANES), "float32", align=4))
        magnitude = T.arg("magnitude", T.buffer((1, LANES), "int32", align=4))
        seen = _Extent()
        with T.serial((size + LANES - 1) // LANES) as i:
            # The last vector may hold some values once more.
            seen.take(values[span(T.min(i * LANES, size - LANES), LANES)])
        seen.store(ends, magnitude, 0)
    return builder.get()


class _Extent:
    """The least and the largest value, and the largest magnitude's bits, of vectors, lane by lane."""

    def __init__(self) -> None:
        self._least, self._largest = (register_buffer(LANES, "float32") for _ in range(2))
        self._furthest, self._lanes = register_buffer(LANES, "int32"), span(0, LANES)
        T.buffer_store(self._least, T.broadcast(T.float32(np.inf), LANES), [self._lanes])
        T.buffer_store(self._largest, T.broadcast(T.float32(-np.inf), LANES), [self._lanes])
        T.buffer_store(self._furthest, T.broadcast(T.int32(0), LANES), [self._lanes])

    def take(self, v: Any) -> None:
        """Take in a vector."""
        lanes = self._lanes
        bits = T.bitwise_and(T.reinterpret(f"int32x{LANES}", v), T.broadcast(T.int32(0x7FFFFFFF), LANES))
        T.buffer_store(self._least, smaller(self._least[lanes], v), [lanes])
        T.buffer_store(self._largest, larger(self._largest[lanes], v), [lanes])
        T.buffer_store(self._furthest, T.max(self._furthest[lanes], bits), [lanes])

    def store(self, ends: Any, magnitude: Any, part: Any) -> None:
        """Store what was found as that of a part; see `extent_loop`."""
        T.buffer_store(ends, self._least[self._lanes], [part, 0, self._lanes])
        T.buffer_store(ends, self._largest[self._lanes], [part, 1, self._lanes])
        T.buffer_store(magnitude, self._furthest[self._lanes], [part, self._lanes])


def histogram_loop() -> tirx.PrimFunc:
    """Return a function that counts values in equal bins on both sides of zero, and finds their extent.

    It is one of (values, partial, counts, ends, magnitude, scale, bins, number). A value v below zero is counted in bin
    `bins - 1 + int(v * scale)`, one above zero in bin `bins + int(v * scale)`; those beyond all bins, and NaN, are
    counted in the first or the last one. Zeros, of which there are many, are counted in LANES bins more, by turns.

    values: [N] float32, 16 or more, of which the first `number` are counted, each of P parts as a task; partial:
    [P,WAYS,2*B+LANES] int32, which is overwritten; counts: [2*B+LANES] int64, where B is bins; ends, magnitude:
    [P,2,LANES] float32 and [P,LANES] int32, of all values, see `extent_loop`; scale, bins: float32; number: int64.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        size, parts, sides = (tirx.Var(name, "int64") for name in ("size", "parts", "sides"))
        values = T.arg("values", T.buffer((size,), "float32", align=4))
        partial = T.arg("partial", T.buffer((parts, WAYS, sides), "int32", align=4))
        counts = T.arg("counts", T.buffer((sides,), "int64", align=8))
        ends = T.arg("ends", T.buffer((parts, 2, LANES), "float32", align=4))
        magnitude = T.arg("magnitude", T.buffer((parts, LANES), "int32", align=4))
        scale, edge = T.arg("scale", T.float32()), T.arg("bins", T.float32()) - T.float32(0.5)
        number, lanes = T.arg("number", T.int64()), span(0, LANES)
        of_zeros = T.cast(sides, "int32") - LANES
        # All parts are as long, in chunks, but for the last one.
        length = (number + parts * _CHUNK - 1) // (parts * _CHUNK) * _CHUNK
        with T.parallel(parts) as p:
            with T.serial(WAYS) as way, T.serial(sides) as i:
                T.buffer_store(partial, T.int32(0), [p, way, i])
            bins, seen, scaled = stack_buffer(LANES + _CHUNK, "int32"), _Extent(), register_buffer(LANES, "float32")
            with T.serial(length // _CHUNK) as chunk:
                start = p * length + chunk * _CHUNK
                own = T.max(T.min(number - start, T.int64(_CHUNK)), T.int64(0))
                with T.serial((own + LANES - 1) // LANES) as i:
                    # The last vector may hold some values once more: those of bins that are counted already.
                    place = T.min(start + i * LANES, size - LANES)
                    v, nothing = values[span(place, LANES)], T.broadcast(T.float32(0), LANES)
                    # While values are counted, nothing else would ask for the next ones.
                    prefetch(values, T.min(place + _CHUNK, size - 1), level=1)
                    seen.take(v)
                    # Stored, as an expression of comparisons and selections would double at each step.
                    T.buffer_store(scaled, v * T.broadcast(scale, LANES), [lanes])
                    # NaN, for which the comparison is false, becomes a number, too.
                    low, high = T.broadcast(-edge, LANES), T.broadcast(edge, LANES)
                    T.buffer_store(scaled, T.Select(scaled[lanes] > low, scaled[lanes], low), [lanes])
                    T.buffer_store(scaled, smaller(scaled[lanes], high), [lanes])
                    below, whole = (T.cast(x, f"int32x{LANES}") for x in (v < nothing, scaled[lanes]))
                    bin_ = whole - below + T.broadcast(T.shift_right(of_zeros, T.int32(1)), LANES)
                    stored = T.Select(v == nothing, T.ramp(of_zeros, 1, LANES), bin_)
                    T.buffer_store(bins, stored, [span(place - start + LANES, LANES)])
                with T.serial(own // WAYS) as i:
                    for way in range(WAYS):
                        at = [p, way, bins[LANES + i * WAYS + way]]
                        T.buffer_store(partial, partial[at] + 1, at)
                with T.serial(own % WAYS) as i:
                    at = [p, 0, bins[LANES + own // WAYS * WAYS + i]]
                    T.buffer_store(partial, partial[at] + 1, at)
            seen.store(ends, magnitude, p)
        with T.serial(sides) as i:
            T.buffer_store(counts, T.int64(0), [i])
        with T.serial(parts) as p, T.serial(WAYS) as way, T.serial(sides) as i:
            T.buffer_store(counts, counts[i] + T.cast(partial[p, way, i], "int64"), [i])
    return builder.get()


def channel_sums_loop() -> tirx.PrimFunc:
    """Return a function of (values, sums) that adds up the values of each channel, in order; some channels are a task.

    values: [N,C] float32; sums: [C] float64, which is overwritten.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        rows, channels = (tirx.Var(name, "int64") for name in ("rows", "channels"))
        values = T.arg("values", T.buffer((rows, channels), "float32", align=4))
        sums = T.arg("sums", T.buffer((channels,), "float64", align=8))
        with T.parallel(channels // LANES) as group:
            added, lanes = register_buffer(LANES, "float64"), span(0, LANES)
            T.buffer_store(added, T.broadcast(T.float64(0), LANES), [lanes])
            with T.serial(rows) as row:
                v = values[row, span(group * LANES, LANES)]
                T.buffer_store(added, added[lanes] + T.cast(v, f"float64x{LANES}"), [lanes])
            T.buffer_store(sums, added[lanes], [span(group * LANES, LANES)])
        with T.serial(channels % LANES) as i:
            last = channels // LANES * LANES + i
            T.buffer_store(sums, T.float64(0), [last])
            with T.serial(rows) as row:
                T.buffer_store(sums, sums[last] + T.cast(values[row, last], "float64"), [last])
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
