"""The loop nest of products of two activations: what is constant elsewhere, is packed at run time.

    for pair of matrices, in parallel:
        pack b into panels, as constant weights are packed at compile time
        for block of nv vectors of columns:
            for tile of mr rows:                   mr x nv accumulators, in registers
                for step of `depth` values:        unrolled: one dot product for each accumulator
                finish and store

With `offset` such that `b - offset` has the type that dot products take,

    sum((a - za) * (b - zb)) = sum(a * (b - offset)) + (offset - zb) * sum(a) - za * sum(b - zb)

where the sums over a row of a, and over a column of b, are made once.

What doesn't divide is computed twice, not masked: the last tile of rows, the last vector of columns, and the last step,
there with zeros for what has been counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.gemm.micro_kernel import Register, accumulate, begin, step_values
from pipeline.kernels.gemm.parallel import worth_threads
from pipeline.kernels.gemm.widened_tile import make_vector_workload
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.broadcast import axes, offsets
from pipeline.kernels.lib.buffers import register_buffer, store_narrow
from pipeline.kernels.lib.vectors import span, splat
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Operation
from pipeline.ops import MatMul, QMatMul


@dataclass(frozen=True)
class Arithmetic:
    """What differs between int8 and float32.

    Attributes:
        dtype: of a and b.
        packed: of b in its panels.
        accumulator: of the sums.
        output: of the result.
        depth: values that a step takes in.
        activations: from values of a to those that dot products take, `a_offset` less, as `activation_dtype`.
        pack: from a vector of b to one of a panel.
        dot: from accumulators, `depth` values of a and a panel's vector to accumulators.
        finish: from accumulators to results.
        offset: b's value for a panel's zero.
        zero_points: of a and b; zero for float32.
        activation_dtype: of a's values in dot products.
        a_offset: what is subtracted from them.
    """

    dtype: str
    packed: str
    accumulator: str
    output: str
    depth: int
    activations: Callable[[Any], Any]
    pack: Callable[[Any], Any]
    dot: Callable[[Any, Any, Any], Any]
    finish: Callable[[Any], Any]
    offset: int = 0
    zero_points: tuple[int, int] = (0, 0)
    activation_dtype: str = "uint8"
    a_offset: int = 0


class MatMulNest:
    """The loop nest of `nn.matmul` and `qnn.matmul`; see the module's docstring."""

    def __init__(self, operation: Operation, machine: Machine, arithmetic: Arithmetic) -> None:
        operator = operation.operator
        if not isinstance(operator, MatMul | QMatMul):
            raise TypeError(f"Expected a matmul, got {operator}")
        self.operation, self.isa, self.arithmetic = operation, machine.isa, arithmetic
        self.transposed = operator.transpose_b
        a, b = operation.inputs
        self.batches = axes(a.shape[:-2], b.shape[:-2])
        *_, self.rows, self.depth = a.shape
        self.columns = operation.output.shape[-1]
        self.steps = -(-self.depth // arithmetic.depth)
        vectors = -(-self.columns // self.isa.lanes)
        dtype = "float32" if arithmetic.accumulator == "float32" else "int8"
        self.tile = make_vector_workload(self.rows, self.columns, self.columns, self.steps, dtype, machine).choose()
        self.blocks = -(-vectors // self.tile.nv)
        self.width = self.isa.lanes * arithmetic.depth

    @property
    def corrected(self) -> bool:
        """Whether sums over rows of a are needed."""
        return self.arithmetic.offset != self.arithmetic.zero_points[1]

    def build(self) -> tirx.PrimFunc:
        """Return the function of (a, b, y), all flat."""
        a_type, b_type = self.operation.inputs
        batch = math.prod(axis.size for axis in self.batches)
        rows = batch * self.rows
        whole = Geometry(1, 1, rows, 1, self.depth, self.columns, (1, 1), (1, 1), (1, 1), 1, rows)
        parallel = batch > 1 and worth_threads(whole, self.isa, self.arithmetic.depth)
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            self.a = T.arg("a", T.buffer((a_type.size,), a_type.dtype))
            self.b = T.arg("b", T.buffer((b_type.size,), b_type.dtype))
            self.y = T.arg("y", T.buffer((self.operation.output.size,), self.arithmetic.output))
            with (T.parallel if parallel else T.serial)(batch) as p:
                vectors = self.blocks * self.tile.nv
                self.panels = T.alloc_buffer((vectors * self.steps * self.width,), self.arithmetic.packed)
                self.starts = T.alloc_buffer((vectors * self.isa.lanes,), self.arithmetic.accumulator)
                self.row_sums = T.alloc_buffer((self.rows if self.corrected else 1,), "int32")
                a, b = offsets(self.batches, p)
                self.a_start, self.b_start = a * self.rows * self.depth, b * self.columns * self.depth
                self.y_start = p * self.rows * self.columns
                with T.serial(self.blocks) as block, T.serial(self.tile.nv) as v:
                    self._pack(block, v)
                if self.corrected:
                    self._sum_rows()
                with T.serial(self.blocks) as block, T.serial(-(-self.rows // self.tile.mr)) as t:
                    self._tile(block, tails.start(t, self.tile.mr, self.rows))
        return builder.get()

    def _first_column(self, vector: Any) -> Any:
        return tails.start(vector, self.isa.lanes, self.columns)

    def _panel(self, block: Any, step: Any, v: Any) -> Any:
        return span(((block * self.steps + step) * self.tile.nv + v) * self.width, self.width)

    def _pack(self, block: Any, v: Any) -> None:
        """Pack a vector of columns, and set what their accumulators begin with."""
        arithmetic, lanes = self.arithmetic, self.isa.lanes
        column = self._first_column(block * self.tile.nv + v)
        last = max(self.depth - arithmetic.depth, 0)
        partial = self.depth % arithmetic.depth > 0
        sums = register_buffer(lanes, arithmetic.accumulator)
        zero = T.broadcast(tirx.const(0, arithmetic.accumulator), lanes)
        a_zero_point, b_zero_point = arithmetic.zero_points[0] - arithmetic.a_offset, arithmetic.zero_points[1]
        T.buffer_store(sums, zero, [span(0, lanes)])
        ones = splat(tirx.const(1, arithmetic.activation_dtype), arithmetic.depth)

        def store(step: Any, packed: Any) -> None:
            at = self._panel(block, step, v)
            T.buffer_store(self.panels, packed, [at])
            if a_zero_point:
                total = arithmetic.dot(sums[span(0, lanes)], ones, self.panels[at])
                T.buffer_store(sums, total, [span(0, lanes)])

        with T.serial(self.steps - partial) as step:
            store(step, arithmetic.pack(self._gather(step * arithmetic.depth, column)))
        if partial:
            packed = arithmetic.pack(self._gather(last, column))
            store(self.steps - 1, packed * self._uncounted())
        start = zero
        if a_zero_point:
            rest = T.int32(self.depth * (arithmetic.offset - b_zero_point))
            total = sums[span(0, lanes)] + T.broadcast(rest, lanes)
            start = total * T.broadcast(T.int32(-a_zero_point), lanes)
        T.buffer_store(self.starts, start, [span((block * self.tile.nv + v) * lanes, lanes)])

    def _gather(self, k: Any, column: Any) -> Any:
        """Return `depth` rows of b from row k on, of a vector of columns, in the order that dot products take."""
        depth, lanes = self.arithmetic.depth, self.isa.lanes
        places = np.arange(self.width).reshape(lanes, depth)
        order = [int(i) for i in (self.isa.arrange(places) if depth > 1 else places.reshape(-1))]
        row_stride, column_stride = (1, self.depth) if self.transposed else (self.columns, 1)
        if self.columns < lanes or self.depth < depth:
            # A value more than once stands where there is none; it isn't stored, or is multiplied by zero.
            rows = [min(d, self.depth - 1) for d in range(depth)]
            columns = [min(lane, self.columns - 1) for lane in range(lanes)]
            offsets = [c * column_stride + r * row_stride for c in columns for r in rows]
            values = [self.b[self.b_start + k * row_stride + column * column_stride + o] for o in offsets]
            return T.Shuffle([values[i] for i in order], list(range(self.width)))
        if self.transposed:
            starts = [self.b_start + (column + lane) * self.depth + k for lane in range(lanes)]
            parts = [self.b[span(start, depth)] for start in starts]
            return T.Shuffle(parts, order)
        parts = [self.b[span(self.b_start + (k + d) * self.columns + column, lanes)] for d in range(depth)]
        if depth == 1:
            return parts[0]
        return T.Shuffle(parts, [i % depth * lanes + i // depth for i in order])

    def _uncounted(self) -> Any:
        """Return ones for the values of the last step that no step before has held, else zeros."""
        fresh = tails.fresh(self.arithmetic.depth, self.depth)[-1].astype("int32")
        lanes = self.isa.arrange(np.tile(fresh, (self.isa.lanes, 1)))
        values = [tirx.const(int(i), self.arithmetic.packed) for i in lanes]
        return T.Shuffle(values, list(range(self.width)))

    def _sum_rows(self) -> None:
        with T.serial(self.rows) as row:
            total = register_buffer(1, "int32")
            T.buffer_store(total, T.int32(-self.arithmetic.a_offset * self.depth), [0])
            with T.serial(self.depth) as k:
                value = T.cast(self.a[self.a_start + row * self.depth + k], "int32")
                T.buffer_store(total, total[0] + value, [0])
            T.buffer_store(self.row_sums, total[0], [row])

    def _tile(self, block: Any, row: Any) -> None:
        """Compute a tile of rows `row` and on, by the columns of a block."""
        arithmetic, lanes, tile = self.arithmetic, self.isa.lanes, self.tile
        acc = register_buffer(tile.mr * tile.nv * lanes, arithmetic.accumulator)

        def register(i: int, v: int) -> Any:
            return span((i * tile.nv + v) * lanes, lanes)

        begin(acc, tile.mr, tile.nv, register, lambda v: self.starts[span((block * tile.nv + v) * lanes, lanes)])
        partial = self.depth % arithmetic.depth > 0
        with T.serial(self.steps - partial) as step:
            self._step(acc, register, block, row, step, step * arithmetic.depth)
        if partial:
            last = tails.start(self.steps - 1, arithmetic.depth, self.depth)
            self._step(acc, register, block, row, self.steps - 1, last)
        for i in range(tile.mr):
            for v in range(tile.nv):
                self._store(acc[register(i, v)], row + i, block * tile.nv + v)

    def _step(self, acc: Any, register: Register, block: Any, row: Any, step: Any, k: Any) -> None:
        arithmetic = self.arithmetic
        accumulate(
            acc,
            self.tile.mr,
            self.tile.nv,
            register,
            arithmetic.dot,
            lambda i: arithmetic.activations(
                step_values(self.a, self.a_start + (row + i) * self.depth + k, arithmetic.depth, self.depth)
            ),
            lambda v: self.panels[self._panel(block, step, v)],
        )

    def _store(self, accumulators: Any, row: Any, vector: Any) -> None:
        lanes = self.isa.lanes
        if self.corrected:
            factor = T.int32(self.arithmetic.offset - self.arithmetic.zero_points[1])
            accumulators = accumulators + T.broadcast(self.row_sums[row] * factor, lanes)
        result = self.arithmetic.finish(accumulators)
        start = self.y_start + row * self.columns + self._first_column(vector)
        if self.columns >= lanes:
            T.buffer_store(self.y, result, [span(start, lanes)])
            return
        store_narrow(self.y, start, result, lanes, self.columns)
