"""The loop nest of `nest` on matrix registers.

A tile is `matrices` registers of activations (see `matrix_plan`) by `nv` vectors of channels. Sums stay in registers,
one for each pair, and two or more are left for a step's activations and weights. Activations stay for all of the step's
weights, if there are registers enough, or else weights for all activations, or else activations are loaded again for
each of the weights:

    matrices x nv   sums   activations   weights
    1 x 6           0-5    6             7, for six in turn
    2 x 2           0-3    4 and 5       6 and 7
    3 x 1           0-2    3 to 5        6
    6 x 1           0-5    7, in turn    6
    2 x 3           0-5    7, 3 x 2      6, for three in turn

The CPU renames matrix registers, so that loading one needn't wait for the product that it was last used in. Sums begin
as the bias, which is loaded with stride 0. They go to memory for the epilogue, each right before the next tile's bias
takes its register: if all were stored at the end of a tile, the next one's products would begin some 70 cycles later.
Vectors take them up during the products of the tile after that.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.epilogue import Epilogue
from pipeline.kernels.gemm.matrix_plan import (
    MIN_PRODUCT_CYCLES,
    VALUES_PER_ROW,
    WHOLE_CYCLES,
    MatrixPlan,
    matrix_instruction_set,
)
from pipeline.kernels.gemm.nest import Nest, Place
from pipeline.kernels.gemm.parallel import TASKS, worth_threads
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import prefetch, register_buffer
from pipeline.kernels.machine import CACHE_LINE

MOST_UNROLLED = 24
"""A reduction with at most this many products of matrix registers is unrolled completely."""

MOST_PRODUCTS = 32
"""How many products are done before sums are stored. After 2200 cycles without a store, it takes 800 cycles longer."""

MOST_TURNS = 4
"""Of products and epilogue: more turns are more code, not less time."""

FEW_CHUNKS = 2
"""Of tiles, where weights don't stay in the first-level cache."""

LEAST_PREFETCHED_LINES = 128
"""Blocks of weights with fewer cache lines aren't prefetched."""

PRODUCTS_PER_LANE = 16
"""As many as vectors sum in the time that waking another thread has to be worth: a quarter of a full tile's."""


def make_matrix_function(plan: MatrixPlan, epilogue: Epilogue) -> tirx.PrimFunc:
    """Return the loop nest for (x, weights, bias, multiplier, and what the epilogue adds) -> y, all flat."""
    return MatrixNest(plan, epilogue).build()


class MatrixNest(Nest):
    """The nest with its accumulators in matrix registers.

    Matrix registers and vectors work at the same time only if their instructions stand close together, so that a tile's
    first products, with the storing of the last tile's sums and its own bias before them, take turns with parts of the
    epilogue of the tile before the last (software pipelining). `acc` therefore holds two tiles' sums.
    """

    def __init__(self, plan: MatrixPlan, epilogue: Epilogue) -> None:
        super().__init__(plan, ("uint8", "int8", "int32"), epilogue)
        self.matrix_plan, self.isa = plan, matrix_instruction_set(plan.machine)
        self.first_activations = plan.sums + plan.weight_registers
        self.acc_vectors = plan.matrices * plan.rows * plan.tile.nv
        groups = len(self.finished_together())
        products = plan.sums * max(plan.rows, MIN_PRODUCT_CYCLES)
        hiding = -(-groups * WHOLE_CYCLES // products)
        self.first_steps = self.total_steps if self.total_steps * plan.sums <= MOST_UNROLLED else hiding
        self.first_steps = min(self.first_steps, self.total_steps)
        rest = self.total_steps - self.first_steps
        self.rounds = max(1, rest * plan.sums // MOST_PRODUCTS)
        self.first_steps += rest % self.rounds
        block_lines = self.block_weights // CACHE_LINE
        prefetches = self.blocks > 1 and block_lines >= LEAST_PREFETCHED_LINES
        self.lines_per_step = -(-block_lines // (self.per_chunk * self.total_steps)) if prefetches else 0
        self.tile_prefetch = self.total_steps * self.lines_per_step * CACHE_LINE

    def worth_threads(self) -> bool:
        """Return whether this is large enough for several threads."""
        return worth_threads(self.plan.geometry, self.isa, PRODUCTS_PER_LANE)

    def most_chunks(self) -> int:
        """Return into how many chunks the tiles are cut; each has all weights come from the second-level cache."""
        if self.blocks * self.block_weights <= self.plan.machine.resident_bytes:
            return TASKS
        return FEW_CHUNKS if self.blocks > 2 else TASKS // self.blocks

    def allocate(self) -> None:
        """Shape the matrix registers, and declare where the epilogue finds their sums."""
        plan, row_bytes = self.matrix_plan, self.isa.lanes * 4
        # A buffer of vectors is aligned as they are: other ones on the stack begin at any 16 bytes.
        self.acc = register_buffer(2 * self.acc_vectors, f"int32x{self.isa.lanes}")
        sums = [(plan.rows, row_bytes)] * plan.sums
        weights = [(plan.depth // VALUES_PER_ROW, row_bytes)] * plan.weight_registers
        activations = [(plan.rows, plan.depth)] * (self.isa.matrix_registers - self.first_activations)
        self.isa.configure([*sums, *weights, *activations])

    def release(self) -> None:
        """Give the matrix registers back."""
        self.isa.release()

    def compute(self, first_block: Any, blocks: Any, first: Any, count: Any) -> None:
        """Compute `count` tiles of `blocks` channel blocks; see the base class."""
        total = blocks * count
        with T.serial(total + 2) as n:
            tile = self._place_of(first_block, first, count, n)
            before = self._place_of(first_block, first, count, n - 2)
            parts = self._first_parts(tile)
            groups = self.finished_together()
            turns = min(len(parts), len(groups), MOST_TURNS)
            for turn in range(turns):
                with T.If(n < total), T.Then():
                    for part in _part(parts, turn, turns):
                        part()
                with T.If(n > 1), T.Then():
                    self._finish_all(before, _part(groups, turn, turns))
            if self.first_steps < self.total_steps:
                with T.If(n < total), T.Then():
                    self._rest(tile)
            with T.If(n == total), T.Then():
                for sums in range(self.matrix_plan.sums):
                    self._store(sums, self.acc_vectors - tile.sums)

    def _finish_all(self, place: Place, groups: list[list[tuple[int, int]]]) -> None:
        """Finish some groups of (pixel, vector) pairs: in a loop, if they repeat at even distances."""
        multipliers = self.multipliers(place)
        for period in range(1, len(groups) // 2 + 1):
            step = self._step_between(groups, period)
            if step is None:
                continue
            with T.serial(len(groups) // period) as k:
                moved = {name: getattr(place, name) + k * distance for name, distance in step.items()}
                for group in groups[:period]:
                    self.finish(dataclasses.replace(place, **moved), group, multipliers)
            return
        for group in groups:
            self.finish(place, group, multipliers)

    def _step_between(self, groups: list[list[tuple[int, int]]], period: int) -> dict[str, int] | None:
        """Return how far apart each group and the one that is `period` behind it are; None if not all are alike."""
        pairs = list(zip(groups, groups[period:], strict=False))
        if len(groups) % period > 0 or any([v for _, v in one] != [v for _, v in other] for one, other in pairs):
            return None
        steps = {
            tuple(b - a for a, b in zip(self._offsets(*first), self._offsets(*second), strict=True))
            for one, other in pairs
            for first, second in zip(one, other, strict=True)
        }
        return dict(zip(("sums", "y", "added"), steps.pop(), strict=True)) if len(steps) == 1 else None

    def _offsets(self, i: int, v: int) -> tuple[int, int, int]:
        """Return where a pixel's vector is in the tile: among its sums, in the output, and in what is added."""
        y, added = (self._output(i, v, halo.row_stride) for halo in (self.halo, self.added_halo))
        return self._sum(i, v), y, added

    def _place_of(self, first_block: Any, first: Any, count: Any, n: Any) -> Place:
        """Return where the n-th of a task's tiles is; each second one has the same place for its sums."""
        # Division by what isn't a constant is slow: it is done once, not by each of the branches that need it.
        block, number = T.bind(first_block + n // count), T.bind(n % count)
        return dataclasses.replace(self.place(block, first, number), sums=n % 2 * self.acc_vectors)

    def _first_parts(self, place: Place) -> list[Callable[[], None]]:
        """Return what begins a tile, in small parts: bias and the products of the first steps."""
        g, plan = self.plan.geometry, self.plan
        parts: list[Callable[[], None]] = []
        if self.epilogue.add is not None:
            parts.append(lambda: self.prefetch_added(place))
        for number in range(self.first_steps):
            segment, step = divmod(number, plan.steps)
            ky, kx = divmod(segment, g.segments[1])
            parts += self._step(place, ky, kx, tails.start(step, plan.depth, g.segment_length), number)
        return parts

    def _rest(self, place: Place) -> None:
        """Add the products of all steps but the first ones."""
        g, plan = self.plan.geometry, self.plan
        columns = g.segments[1]
        per_round = (self.total_steps - self.first_steps) // self.rounds
        with T.serial(self.rounds) as r:
            if self.rounds > 1:
                self._store(0, place.sums)
            with T.serial(per_round) as s:
                number = self.first_steps + r * per_round + s
                segment = number // plan.steps
                offset = tails.start(number % plan.steps, plan.depth, g.segment_length)
                for part in self._step(place, segment // columns, segment % columns, offset, number):
                    part()

    def _step(self, place: Place, ky: Any, kx: Any, offset: Any, number: Any) -> list[Callable[[], None]]:
        """Return the parts of a step: each matrix of activations times each matrix of weights; see `Nest.step`."""
        plan, nv = self.matrix_plan, self.plan.tile.nv
        x = place.x + self.segment(ky, kx) + offset
        stride = plan.geometry.strides[1] * self.channels_in
        begins = isinstance(number, int) and number == 0

        def prefetch_next() -> None:
            for line in range(self.lines_per_step):
                prefetch(self.weights, place.next_weights + (number * self.lines_per_step + line) * CACHE_LINE, level=2)

        def load_weights(v: int) -> None:
            start = place.weights + (number * nv + v) * self.isa.lanes * plan.depth
            self.isa.load(plan.sums + v % plan.weight_registers, self.weights, start, self.isa.lanes * VALUES_PER_ROW)

        def load_activations(matrix: int) -> None:
            self.isa.load(self._activations(matrix), self.x, x + self.input_offset(plan.first_pixel(matrix)), stride)

        def multiply(matrix: int, v: int) -> None:
            sums = matrix * nv + v
            if begins:
                # A task's first tile stores nothing of use here, and nobody reads it.
                self._store(sums, self.acc_vectors - place.sums)
                self.isa.load(sums, self.bias, place.packed + v * self.isa.lanes, 0)
            self.isa.multiply(sums, self._activations(matrix), plan.sums + v % plan.weight_registers)

        parts = [prefetch_next] if self.lines_per_step else []
        bind = functools.partial
        if plan.held_activations or plan.weight_registers < nv:
            held = plan.held_activations > 0
            for v in range(nv):
                for matrix in range(plan.matrices):
                    loads = [bind(load_weights, v)] if matrix == 0 else []
                    loads += [] if held and v > 0 else [bind(load_activations, matrix)]
                    parts.append(_together(*loads, bind(multiply, matrix, v)))
            return parts
        parts += [bind(load_weights, v) for v in range(nv)]
        for matrix in range(plan.matrices):
            for v in range(nv):
                loads = [bind(load_activations, matrix)] if v == 0 else []
                parts.append(_together(*loads, bind(multiply, matrix, v)))
        return parts

    def _store(self, sums: int, slot: Any) -> None:
        """Store a register of sums, row by row, a pixel's vectors together."""
        plan, nv = self.matrix_plan, self.plan.tile.nv
        matrix, v = divmod(sums, nv)
        self.isa.store(sums, self.acc, slot + matrix * plan.rows * nv + v, nv * self.isa.lanes * 4)

    def _activations(self, matrix: int) -> int:
        """Return the register of a matrix of activations."""
        return self.first_activations + matrix % (self.isa.matrix_registers - self.first_activations)

    def register(self, place: Place, i: int, v: int) -> Any:
        """Return the place in `acc` of the sums of pixel i and vector v."""
        return place.sums + self._sum(i, v)

    def _sum(self, i: int, v: int) -> int:
        return self.matrix_plan.row_of(i) * self.plan.tile.nv + v


def _together(*actions: Callable[[], None]) -> Callable[[], None]:
    def act() -> None:
        for action in actions:
            action()

    return act


Item = TypeVar("Item")


def _part(items: list[Item], turn: int, turns: int) -> list[Item]:
    """Return the part of a list that belongs to one of some turns, about equally many to each."""
    return items[len(items) * turn // turns : len(items) * (turn + 1) // turns]
