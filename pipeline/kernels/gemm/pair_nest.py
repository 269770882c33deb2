"""The loop nest of `nest` with products of pairs of bytes, whose order depends on the weights.

Before a tile's products, its activations are put into the order that its channel block wants (`pairing`), in memory
that stays in the first-level cache:

    for window of 16 inputs:                   as many at once as a vector holds
        for pixel of mr:                       unrolled: load, shuffle, store
    for extra step:
        for pixel of mr:                       unrolled: load, shuffle, store four
    for step:
        register tile, from the arranged activations

Weights of extra steps are apart from the others. The order of a block's inputs is stored as shuffles take it; behind it
stand the orders of extra steps, each with the place where it finds its inputs, and the numbers of steps and of extra
ones:

    [windows][16] [extra steps]([4], int32) [2] int32
"""

from __future__ import annotations

import functools
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.epilogue import Epilogue
from pipeline.kernels.gemm.micro_kernel import accumulate
from pipeline.kernels.gemm.nest import PREFETCH_DISTANCE, Nest, Place
from pipeline.kernels.gemm.pair_plan import COUNTS, EXTRA_BYTES, INT_BYTES, PairPlan
from pipeline.kernels.gemm.pairing import STEP, WINDOW
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import prefetch, stack_buffer
from pipeline.kernels.lib.vectors import part, repeated, span
from pipeline.kernels.machine import CACHE_LINE


def make_pair_function(plan: PairPlan, epilogue: Epilogue) -> tirx.PrimFunc:
    """Return the loop nest for (x, weights, what `pack_pairs` returns beside them, bias, ...) -> y, all flat."""
    return PairNest(plan, epilogue).build()


class PairNest(Nest):
    """The nest, with a tile's activations in an order of their own."""

    def __init__(self, plan: PairPlan, epilogue: Epilogue) -> None:
        super().__init__(plan, ("uint8", "int8", "int32"), epilogue)
        if not isinstance(plan.isa, PairwiseInstructionSet):
            raise TypeError(f"Expected an instruction set that multiplies pairs of bytes, got {plan.isa.name}")
        self.pair_plan, self.isa = plan, plan.isa
        self.pixel_bytes = (self.total_steps + plan.extra) * STEP

    def allocate(self) -> None:
        """Declare the accumulators, and room for a tile's activations."""
        super().allocate()
        self.arranged = stack_buffer(self.plan.tile.mr * self.pixel_bytes, "uint8")

    def more_arguments(self) -> None:
        """Declare the order of inputs, and the weights of extra steps, if there are any."""
        plan = self.pair_plan
        self.orders = T.arg("orders", T.buffer((self.blocks * plan.order_bytes,), "uint8"))
        if plan.extra > 0:
            self.extra = T.arg("extra", T.buffer((self.blocks * plan.extra_weights,), "int8"))

    def reduce(self, place: Place) -> None:
        """Arrange a tile's activations, then add all products to its accumulators."""
        plan = self.pair_plan
        block = tirx.floordiv(place.weights, self.block_weights)
        orders = block * plan.order_bytes
        self._arrange(place, orders)
        # A constant number of steps, LLVM would unroll, and run out of registers.
        steps = self._read_int(orders + plan.order_bytes - COUNTS * INT_BYTES)
        if self.blocks == 1:
            with T.serial(steps) as k:
                self._multiply(place, k)
        else:
            run = self.steps_per_prefetch
            with T.serial((steps + (run - 1)) // run) as r:
                start = place.next_weights + r * self.prefetched_values
                for line in range(self.lines_per_prefetch):
                    prefetch(self.weights, start + line * self.line_values, level=2)
                with T.serial(T.min(run, steps - r * run)) as k:
                    self._multiply(place, r * run + k)
        if plan.extra > 0:
            with T.serial(self._extra_steps(orders)) as e:
                self._add_products(place, self.extra, block * plan.extra_weights, e, self.total_steps + e)

    def _extra_steps(self, orders: Any) -> Any:
        """Return how many extra steps a block has, by where the order of its inputs begins."""
        return self._read_int(orders + self.pair_plan.order_bytes - INT_BYTES)

    def _read_int(self, at: Any) -> Any:
        """Return an int32 that stands behind the order of a block's inputs."""
        return T.reinterpret("int32", self.orders[span(at, INT_BYTES)])

    def _multiply(self, place: Place, number: Any) -> None:
        """Add the products of a step."""
        plan = self.plan
        width = self.isa.lanes * STEP
        if self.block_weights > plan.machine.resident_bytes:
            ahead = place.weights + (number + PREFETCH_DISTANCE) * plan.tile.nv * width
            for line in range(0, plan.tile.nv * width, CACHE_LINE):
                prefetch(self.weights, ahead + line, level=1)
        self._add_products(place, self.weights, place.weights, number, number)

    def _add_products(self, place: Place, weights: Any, first: Any, number: Any, arranged: Any) -> None:
        """Add products of a step's weights, by where the block's begin and its number, and of arranged activations."""
        tile, width = self.plan.tile, self.isa.lanes * STEP
        accumulate(
            self.acc,
            tile.mr,
            tile.nv,
            functools.partial(self.register, place),
            self.isa.dot_bytes,
            lambda i: self.arranged[span(i * self.pixel_bytes + arranged * STEP, STEP)],
            lambda v: weights[span(first + (number * tile.nv + v) * width, width)],
        )

    def _arrange(self, place: Place, orders: Any) -> None:
        plan, g = self.pair_plan, self.plan.geometry
        rows, columns = g.segments
        whole, together = g.segment_length // WINDOW, STEP * self.isa.lanes // WINDOW
        with T.serial(rows) as ky, T.serial(columns) as kx:
            first = (ky * columns + kx) * plan.windows
            x = place.x + self.segment(ky, kx)
            if whole >= together:
                with T.serial(-(-whole // together)) as c:
                    window = tails.start(c, together, whole)
                    self._shuffle(orders, first + window, x + window * WINDOW, together)
            else:
                with T.serial(whole) as window:
                    self._shuffle(orders, first + window, x + window * WINDOW, 1)
            if whole < plan.windows:
                self._shuffle(orders, first + whole, x + g.segment_length - WINDOW, 1)
        if plan.extra > 0:
            with T.serial(self._extra_steps(orders)) as e:
                order = orders + plan.all_windows * WINDOW + e * EXTRA_BYTES
                x = place.x + self._read_int(order + STEP)
                self._store_shuffled(self._order(order, STEP), x, (self.total_steps + e) * STEP, WINDOW, STEP)

    def _shuffle(self, orders: Any, window: Any, x: Any, count: int) -> None:
        """Arrange `count` neighbouring windows of all pixels."""
        order = self._order(orders + window * WINDOW, count * WINDOW)
        self._store_shuffled(order, x, window * WINDOW, count * WINDOW, count * WINDOW)

    def _order(self, at: Any, length: int) -> Any:
        """Return a vector that begins with some places' inputs."""
        return repeated(self.orders[span(at, length)], STEP * self.isa.lanes)

    def _store_shuffled(self, order: Any, x: Any, at: Any, taken: int, stored: int) -> None:
        """Load `taken` values of all pixels, and store the first ones of their order."""
        vector = STEP * self.isa.lanes
        for i in range(self.plan.tile.mr):
            values = repeated(self.x[span(x + self.input_offset(i), taken)], vector)
            shuffled = part(self.isa.shuffle(values, order), 0, stored)
            T.buffer_store(self.arranged, shuffled, [span(i * self.pixel_bytes + at, stored)])
