"""The loop nest of `product` on tile registers.

A tile register holds 16 pixels by 64 values of a segment, which are loaded from the NHWC input as they lie there: its
rows begin as far apart as neighbouring pixels do. Where a line of the output has few pixels, a tile register may span
several lines, as the pixels of the next one follow at the same distance, with some between them that nobody needs:

    7 x 7 outputs, from 9 x 9 inputs: rows 0 to 6 are a line, 7 and 8 are idle, 9 to 15 are the next line.

The sums of `tiles` of these by `nv` vectors of channels stay in tile registers, one for each pair, and two or more are
left for a step's activations and weights. Activations stay for all of the step's weights, if there are registers
enough, or else weights for all activations, or else activations are loaded again for each of the weights:

    tiles x nv   sums   activations   weights
    1 x 6        0-5    6             7, for six in turn
    2 x 2        0-3    4 and 5       6 and 7
    3 x 1        0-2    3 to 5        6
    6 x 1        0-5    7, in turn    6
    2 x 3        0-5    7, 3 x 2      6, for three in turn

The CPU renames tile registers, so that loading one needn't wait for the product that it was last used in. Sums begin
as the bias, which is loaded with stride 0, and go to memory for the epilogue, where vectors take them up while the next
tile's products are under way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.epilogue import Epilogue
from pipeline.kernels.isa.amx import TileInstructionSet
from pipeline.kernels.plan import Geometry, Plan
from pipeline.kernels.product import Nest, Place, prefetch, worth_sharing
from pipeline.kernels.tiling import CACHE_LINE, Tile, resident_bytes
from pipeline.kernels.vectors import register_buffer

VALUES_PER_ROW = 4
"""How many values of a pixel each row of a tile of weights is for."""

MIN_SEGMENT = 16
"""Shorter segments leave most of a tile register empty: vectors are as quick."""

MIN_PIXELS = 4
"""Fewer pixels have nothing to share the loading of weights with."""

MIN_PRODUCT_CYCLES = 10
"""What a product of tile registers takes at least."""

STEP_CYCLES, TILE_CYCLES = 2, 30
"""For each step, and each tile, on top."""

VECTORS_TOGETHER, WHOLE_CYCLES, LEFT_CYCLES = 4, 12, 4
"""How many vectors of sums are finished together best; what so many take, and each of those left over."""

CROWDING_CYCLES = 4
"""For the square of the number of tile registers that hold sums."""

MOST_UNROLLED = 24
"""Products of tile registers for which a reduction is unrolled as a whole."""

MOST_TURNS = 4
"""Of products and epilogue: more turns are more code, not less time."""

LEAST_FETCHED_LINES = 128
"""Blocks of weights of fewer lines aren't fetched ahead."""

PRODUCTS_PER_LANE = 16
"""As many as vectors sum in the time that waking another thread has to be worth: a quarter of a full tile's."""


@dataclass(frozen=True)
class TilePlan(Plan):
    """A plan for tile registers.

    Attributes:
        rows: of a tile register of activations or sums.
        pitch: how many rows one line of the output is below the one before in a tile register; 0 if it has only one.
        registers: how many tile registers there are.
    """

    rows: int
    pitch: int
    registers: int

    @property
    def tile_lines(self) -> int:
        """How many lines of the output a tile register spans."""
        return 1 if self.pitch == 0 else (self.rows - self.tile.columns) // self.pitch + 1

    @property
    def tiles(self) -> int:
        """How many tile registers of activations share the same weights."""
        return self.tile.lines // self.tile_lines * max(1, self.tile.columns // self.rows)

    @property
    def sums(self) -> int:
        """How many tile registers hold sums."""
        return self.tiles * self.tile.nv

    @property
    def held_activations(self) -> int:
        """How many tile registers of activations stay for all weights of a step; 0 if they don't."""
        return self.tiles if self.tiles < self.registers - self.sums else 0

    @property
    def weight_registers(self) -> int:
        """How many tile registers weights take; fewer than `nv` are used in turn."""
        free = self.registers - self.sums
        if self.held_activations:
            return min(free - self.tiles, self.tile.nv)
        return self.tile.nv if self.tile.nv < free else 1

    @property
    def loaded_activations(self) -> int:
        """How many tiles of activations a step loads."""
        again = not self.held_activations and self.weight_registers < self.tile.nv
        return self.tiles * (self.tile.nv if again else 1)

    @property
    def lines_per_row(self) -> float:
        """How many cache lines a row of activations touches, on average."""
        aligned = self.geometry.groups * self.geometry.group_in % CACHE_LINE == 0
        return 1.0 if aligned else 1 + (self.depth - 1) / CACHE_LINE

    def row_of(self, i: int) -> int:
        """Return in which row the sums of pixel i are, through all tile registers."""
        line, column = divmod(i, self.tile.columns)
        tile, line = divmod(line, self.tile_lines)
        return tile * self.rows + line * self.pitch + column

    def first_pixel(self, tile: int) -> int:
        """Return which pixel the first row of a tile register is for."""
        return tile * self.tile.mr // self.tiles


def fits_tiles(geometry: Geometry) -> bool:
    """Return whether tile registers are worth their while."""
    g = geometry.flattened()
    return g.segment_length >= MIN_SEGMENT and g.out_width >= MIN_PIXELS


def make_tile_plan(geometry: Geometry, isa: TileInstructionSet) -> TilePlan:
    """Return the cheapest plan: see `_cycles`."""
    return min(tile_plans(geometry, isa), key=lambda plan: (_cycles(plan), plan.tile.mr, plan.tile.nv, plan.rows))


def tile_plans(geometry: Geometry, isa: TileInstructionSet) -> Iterator[TilePlan]:
    """Yield all plans: tile registers side by side in a line, or whole lines below each other."""
    g = geometry.flattened().merged(isa.lanes)
    vectors, length = -(-g.group_out // isa.lanes), g.segment_length
    steps = -(-length // isa.tile_bytes)
    depth = -(-length // (steps * VALUES_PER_ROW)) * VALUES_PER_ROW
    if depth > length + g.readable_beyond:
        depth = length // VALUES_PER_ROW * VALUES_PER_ROW

    def plan(tile: Tile, rows: int, pitch: int) -> TilePlan:
        return TilePlan(g, isa, depth, tile, vectors, rows, pitch, isa.tiles)

    pitch, broken = divmod(g.strides[0] * g.width, g.strides[1])
    most_sums = isa.tiles - 2
    for nv in range(1, min(vectors, most_sums) + 1):
        for tiles in range(1, most_sums // nv + 1):
            for rows in range(1, min(isa.tile_rows, g.out_width // tiles) + 1):
                yield plan(Tile(tiles * rows, nv), rows, 0)
            for lines in range(1, g.out_height // tiles + 1):
                rows = (lines - 1) * pitch + g.out_width
                if rows <= isa.tile_rows and not (broken and lines > 1):
                    yield plan(Tile(tiles * lines * g.out_width, nv, tiles * lines), rows, pitch if lines > 1 else 0)


def make_tile_function(plan: TilePlan, isa: TileInstructionSet, epilogue: Epilogue) -> tirx.PrimFunc:
    """Return the loop nest for (x, weights, bias, scaling, and what the epilogue adds) -> y, all flat."""
    return TileNest(plan, isa, epilogue).build()


def _cycles(plan: TilePlan) -> float:
    """Return about how many cycles a plan takes for an image; plans are compared by it, it tells no times.

    A product takes a cycle for each row of its activations or weights, whichever are more, and at least ten. Two lines
    are loaded in a cycle; those of weights that don't stay in the first-level cache take a cycle more. The slower of
    these sets a step's pace. The epilogue comes on top: sums are stored by a row in a cycle, and finished four vectors
    of a pixel at a time, or fewer. Many sums at once push each other, and all else, out of the first-level cache.

    The constants were fitted to the times of all plans of 24 layers of mobile networks and ResNets: with them, layers
    take 4 % longer than with the quickest plan of each, by measurement.
    """
    g, tile = plan.geometry, plan.tile
    weight_rows = plan.depth // VALUES_PER_ROW
    steps = plan.steps * g.segments[0] * g.segments[1]
    products = plan.sums * max(MIN_PRODUCT_CYCLES, plan.rows, weight_rows)
    loads = (plan.loaded_activations * plan.rows * plan.lines_per_row + tile.nv * weight_rows) / 2
    if steps * plan.block_channels * plan.depth > resident_bytes(plan.isa):
        loads += tile.nv * weight_rows
    whole, left = divmod(tile.mr * tile.nv, VECTORS_TOGETHER)
    if g.group_out != plan.block_channels:
        whole, left = tile.mr * (tile.nv // VECTORS_TOGETHER), tile.mr * (tile.nv % VECTORS_TOGETHER)
    epilogue = WHOLE_CYCLES * whole + LEFT_CYCLES * left + plan.sums * plan.rows
    runs = -(-g.out_width // tile.columns) * -(-g.out_height // tile.lines) * plan.blocks
    per_tile = TILE_CYCLES + CROWDING_CYCLES * plan.sums**2
    return runs * (steps * (max(products, loads) + STEP_CYCLES) + epilogue + per_tile)


class TileNest(Nest):
    """The nest with its accumulators in tile registers.

    Tile registers and vectors work at the same time only if their instructions stand close together, so that a tile's
    first products, its bias before them, and, where there are few steps, the storing of its sums take turns with parts
    of the epilogue of the tile before. `acc` therefore holds two tiles' sums.
    """

    def __init__(self, plan: TilePlan, isa: TileInstructionSet, epilogue: Epilogue) -> None:
        super().__init__(plan, ("uint8", "int8", "int32"), epilogue)
        self.tile_plan, self.isa = plan, isa
        self.first_activations = plan.sums + plan.weight_registers
        self.acc_vectors = plan.tiles * plan.rows * plan.tile.nv
        groups = len(self.finished_together())
        products = plan.sums * max(plan.rows, MIN_PRODUCT_CYCLES)
        hiding = -(-groups * WHOLE_CYCLES // products)
        self.first_steps = self.total_steps if self.total_steps * plan.sums <= MOST_UNROLLED else hiding
        self.first_steps = min(self.first_steps, self.total_steps)
        block_lines = self.block_weights // CACHE_LINE
        fetches = plan.geometry.groups * plan.blocks > 1 and block_lines >= LEAST_FETCHED_LINES
        self.lines_per_step = -(-block_lines // (self.per_chunk * self.total_steps)) if fetches else 0
        self.share = self.total_steps * self.lines_per_step * CACHE_LINE

    def worth_sharing(self) -> bool:
        """Return whether this is large enough for several threads."""
        return worth_sharing(self.plan.geometry, self.isa, PRODUCTS_PER_LANE)

    def allocate(self) -> None:
        """Shape the tile registers, and declare where the epilogue finds their sums."""
        plan, row_bytes = self.tile_plan, self.isa.lanes * 4
        # A buffer of vectors is aligned as they are: other ones on the stack begin at any 16 bytes.
        self.acc = register_buffer(2 * self.acc_vectors, f"int32x{self.isa.lanes}")
        sums = [(plan.rows, row_bytes)] * plan.sums
        weights = [(plan.depth // VALUES_PER_ROW, row_bytes)] * plan.weight_registers
        activations = [(plan.rows, plan.depth)] * (self.isa.tiles - self.first_activations)
        self.isa.configure([*sums, *weights, *activations])

    def release(self) -> None:
        """Give the tile registers back."""
        self.isa.release()

    def compute(self, first_block: Any, blocks: int, first: Any, count: Any) -> None:
        """Compute `count` tiles of some channel blocks; see the base class."""
        total = blocks * count
        with T.serial(total + 1) as n:
            tile = self._place_of(first_block, first, count, n)
            before = self._place_of(first_block, first, count, n - 1)
            parts = self._first_parts(tile)
            rest = self.first_steps < self.total_steps
            if not rest:
                parts += self._storing(tile)
            groups = self.finished_together()
            turns = min(len(parts), len(groups), MOST_TURNS)
            for turn in range(turns):
                with T.If(n < total), T.Then():
                    for part in _share(parts, turn, turns):
                        part()
                with T.If(n > 0), T.Then():
                    self._finish_all(before, _share(groups, turn, turns))
            if rest:
                with T.If(n < total), T.Then():
                    self._rest(tile)
                    for part in self._storing(tile):
                        part()

    def _finish_all(self, place: Place, groups: list[list[tuple[int, int]]]) -> None:
        """Finish some groups of (pixel, vector) pairs: in a loop, if they repeat at even distances."""
        for period in range(1, len(groups) // 2 + 1):
            step = self._step_between(groups, period)
            if step is None:
                continue
            with T.serial(len(groups) // period) as k:
                moved = {name: getattr(place, name) + k * distance for name, distance in step.items()}
                for group in groups[:period]:
                    self.finish(dataclasses.replace(place, **moved), group)
            return
        for group in groups:
            self.finish(place, group)

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
        row = self.plan.geometry.out_width * self.channels_out
        return self._sum(i, v), self._output(i, v, self.frame.row_stride), self._output(i, v, row)

    def _place_of(self, first_block: Any, first: Any, count: Any, n: Any) -> Place:
        """Return where the n-th of a task's tiles is; each second one has the same place for its sums."""
        place = self.place(first_block + n // count, first, n % count)
        return dataclasses.replace(place, sums=n % 2 * self.acc_vectors)

    def _first_parts(self, place: Place) -> list[Callable[[], None]]:
        """Return what begins a tile, in small parts: bias and the products of the first steps."""
        g, plan = self.plan.geometry, self.plan
        parts: list[Callable[[], None]] = []
        if self.epilogue.add is not None:
            parts.append(lambda: self.fetch_added(place))
        last = max(g.segment_length - plan.depth, 0)
        for number in range(self.first_steps):
            segment, step = divmod(number, plan.steps)
            ky, kx = divmod(segment, g.segments[1])
            parts += self._step(place, ky, kx, min(step * plan.depth, last), number)
        return parts

    def _rest(self, place: Place) -> None:
        """Add the products of all steps but the first ones."""
        g, plan = self.plan.geometry, self.plan
        last = max(g.segment_length - plan.depth, 0)
        rows, columns = g.segments
        skipped, begun = divmod(self.first_steps, plan.steps)
        with T.serial(rows * columns - skipped) as s:
            segment = s + skipped
            begin = T.if_then_else(s == 0, begun, 0) if begun else 0
            with T.serial(plan.steps - begin) as k:
                step = begin + k
                offset = T.min(step * plan.depth, last)
                for part in self._step(
                    place, segment // columns, segment % columns, offset, segment * plan.steps + step
                ):
                    part()

    def _step(self, place: Place, ky: Any, kx: Any, offset: Any, number: Any) -> list[Callable[[], None]]:
        """Return the parts of a step: each tile of activations times each tile of weights; see `Nest.step`."""
        plan, nv = self.tile_plan, self.plan.tile.nv
        x = place.x + self.segment(ky, kx) + offset
        stride = plan.geometry.strides[1] * self.channels_in
        begins = isinstance(number, int) and number == 0

        def fetch() -> None:
            for line in range(self.lines_per_step):
                prefetch(self.weights, place.next_weights + (number * self.lines_per_step + line) * CACHE_LINE, level=2)

        def load_weights(v: int) -> None:
            start = place.weights + (number * nv + v) * self.isa.lanes * plan.depth
            self.isa.load(plan.sums + v % plan.weight_registers, self.weights, start, self.isa.lanes * VALUES_PER_ROW)

        def load_activations(tile: int) -> None:
            self.isa.load(self._activations(tile), self.x, x + self.input_offset(plan.first_pixel(tile)), stride)

        def multiply(tile: int, v: int) -> None:
            sums = tile * nv + v
            if begins:
                self.isa.load(sums, self.bias, place.packed + v * self.isa.lanes, 0)
            self.isa.multiply(sums, self._activations(tile), plan.sums + v % plan.weight_registers)

        parts = [fetch] if self.lines_per_step else []
        bind = functools.partial
        if plan.held_activations or plan.weight_registers < nv:
            held = plan.held_activations > 0
            parts += [bind(load_activations, tile) for tile in range(plan.tiles) if held]
            for v in range(nv):
                for tile in range(plan.tiles):
                    loads = [bind(load_weights, v)] if tile == 0 else []
                    loads += [] if held else [bind(load_activations, tile)]
                    parts.append(_together(*loads, bind(multiply, tile, v)))
            return parts
        parts += [bind(load_weights, v) for v in range(nv)]
        for tile in range(plan.tiles):
            for v in range(nv):
                loads = [bind(load_activations, tile)] if v == 0 else []
                parts.append(_together(*loads, bind(multiply, tile, v)))
        return parts

    def _storing(self, place: Place) -> list[Callable[[], None]]:
        """Return the parts that store a tile's sums row by row, a pixel's vectors together."""
        plan, nv, stride = self.tile_plan, self.plan.tile.nv, self.plan.tile.nv * self.isa.lanes * 4

        def store(tile: int, v: int) -> None:
            self.isa.store(tile * nv + v, self.acc, place.sums + tile * plan.rows * nv + v, stride)

        return [functools.partial(store, tile, v) for tile in range(plan.tiles) for v in range(nv)]

    def _activations(self, tile: int) -> int:
        """Return the register of a tile of activations."""
        return self.first_activations + tile % (self.isa.tiles - self.first_activations)

    def register(self, place: Place, i: int, v: int) -> Any:
        """Return the place in `acc` of the sums of pixel i and vector v."""
        return place.sums + self._sum(i, v)

    def _sum(self, i: int, v: int) -> int:
        return self.tile_plan.row_of(i) * self.plan.tile.nv + v


def _together(*actions: Callable[[], None]) -> Callable[[], None]:
    def act() -> None:
        for action in actions:
            action()

    return act


Item = TypeVar("Item")


def _share(items: list[Item], turn: int, turns: int) -> list[Item]:
    """Return the part of a list that belongs to one of some turns, about equally many to each."""
    return items[len(items) * turn // turns : len(items) * (turn + 1) // turns]
