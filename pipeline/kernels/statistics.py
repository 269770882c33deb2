"""Loops over a tensor's values, for calibration: they take a quarter of the time of NumPy's operations, one by one."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.buffers import stack_buffer
from pipeline.kernels.lib.vectors import span

WAYS = 2
"""How many histograms a task counts in by turns, as successive values are often in the same bin."""

_LANES = 16

_CHUNK = 64 * _LANES
"""Values whose bins are computed at once, in vectors, before they are counted one by one."""


def histogram_loop() -> tirx.PrimFunc:
    """Return a function of (values, counts, scale, tasks) that counts values in equal bins on both sides of zero.

    A value v below zero is counted in bin `bins - 1 + int(v * scale)`, any other in bin `bins + int(v * scale)`. Tasks
    take equal parts of the values, one after another.

    values: [N] float32, of which `v * scale` is in (-bins, bins); counts: [tasks, WAYS, 2 * bins] int32, to which is
    added; scale: float32; tasks: int32.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        size, count, sides = (tirx.Var(name, "int64") for name in ("size", "count", "sides"))
        values = T.arg("values", T.buffer((size,), "float32", align=4))
        counts = T.arg("counts", T.buffer((count, WAYS, sides), "int32", align=4))
        scale, tasks = T.arg("scale", T.float32()), T.arg("tasks", T.int32())
        middle = T.cast(sides // 2, "int32")
        with T.parallel(tasks) as task:
            start = size * task // tasks
            stop = size * (task + 1) // tasks
            bins = stack_buffer(_CHUNK, "int32")
            with T.serial((stop - start) // _CHUNK) as chunk:
                first = start + chunk * _CHUNK
                with T.serial(_CHUNK // _LANES) as i:
                    v = values[span(first + i * _LANES, _LANES)]
                    below = T.cast(v < T.broadcast(T.float32(0), _LANES), f"int32x{_LANES}")
                    scaled = T.cast(v * T.broadcast(scale, _LANES), f"int32x{_LANES}")
                    T.buffer_store(bins, scaled - below + T.broadcast(middle, _LANES), [span(i * _LANES, _LANES)])
                with T.serial(_CHUNK // WAYS) as i:
                    for way in range(WAYS):
                        at = [task, way, bins[i * WAYS + way]]
                        T.buffer_store(counts, counts[at] + 1, at)
            rest = start + (stop - start) // _CHUNK * _CHUNK
            with T.serial(stop - rest) as i:
                v = values[rest + i]
                at = [task, 0, T.cast(v * scale, "int32") - T.cast(v < T.float32(0), "int32") + middle]
                T.buffer_store(counts, counts[at] + 1, at)
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
