"""The loop nest of `product` on tile registers.

A tile register holds 16 pixels by 64 values of a segment, which are loaded from the NHWC input as they lie there: its
rows begin as far apart as neighbouring pixels do. Where a line of the output has few pixels, a tile register may span
several lines, as the pixels of the next one follow at the same distance, with some between them that nobody needs:

    7 x 7 outputs, from 9 x 9 inputs: rows 0 to 6 are a line, 7 and 8 are idle, 9 to 15 are the next line.

The sums of `tiles` of these by `nv` vectors of channels stay in tile registers, one for each pair:

    tile registers   0 .. tiles * nv - 1 | .. + nv - 1           | the others, in turn
                     int32 sums          | int8 weights, 16 x 64 | uint8 activations

They begin as the bias, which is loaded with stride 0, and go to memory for the epilogue, where vectors take them up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import tirx

from pipeline.kernels.epilogue import Epilogue
from pipeline.kernels.isa.amx import TileInstructionSet
from pipeline.kernels.plan import Geometry, Plan
from pipeline.kernels.product import Nest, Place, worth_sharing
from pipeline.kernels.tiling import BYTES_PER_CYCLE, Tile, resident_bytes
from pipeline.kernels.vectors import register_buffer

VALUES_PER_ROW = 4
"""How many values of a pixel each row of a tile of weights is for."""

MIN_SEGMENT = 16
"""Shorter segments leave most of a tile register empty: vectors are as quick."""

MIN_PIXELS = 4
"""Fewer pixels have nothing to share the loading of weights with."""

PRODUCTS_PER_LANE = 16
"""As many as vectors sum in the time that waking another thread has to be worth: a quarter of a full tile's."""


@dataclass(frozen=True)
class TilePlan(Plan):
    """A plan for tile registers.

    Attributes:
        rows: of a tile register of activations or sums.
        pitch: how many rows one line of the output is below the one before in a tile register; 0 if it has only one.
    """

    rows: int
    pitch: int

    @property
    def tile_lines(self) -> int:
        """How many lines of the output a tile register spans."""
        return 1 if self.pitch == 0 else (self.rows - self.tile.columns) // self.pitch + 1

    @property
    def tiles(self) -> int:
        """How many tile registers of activations share the same weights."""
        return self.tile.lines // self.tile_lines * max(1, self.tile.columns // self.rows)

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
    """Return the cheapest plan: see `_cost`."""
    g = geometry.flattened().merged(isa.lanes)
    vectors, length = -(-g.group_out // isa.lanes), g.segment_length
    steps = -(-length // isa.tile_bytes)
    depth = min(-(-length // (steps * VALUES_PER_ROW)), length // VALUES_PER_ROW) * VALUES_PER_ROW
    plans = (TilePlan(g, isa, depth, tile, vectors, rows, pitch) for tile, rows, pitch in _candidates(g, vectors, isa))
    return min(plans, key=lambda plan: (_cost(plan), plan.tile.mr, plan.tile.nv, plan.rows))


def make_tile_function(plan: TilePlan, isa: TileInstructionSet, epilogue: Epilogue) -> tirx.PrimFunc:
    """Return the loop nest for (x, weights, bias, multiplier, and what the epilogue adds) -> y, all flat."""
    return TileNest(plan, isa, epilogue).build()


def _candidates(g: Geometry, vectors: int, isa: TileInstructionSet) -> Iterator[tuple[Tile, int, int]]:
    """Yield tiles with their rows and pitch: tile registers side by side in a line, or whole lines below each other."""
    pitch, broken = divmod(g.strides[0] * g.width, g.strides[1])
    for nv in range(1, vectors + 1):
        for tiles in range(1, (isa.tiles - 1 - nv) // nv + 1):
            for rows in range(1, min(isa.tile_rows, g.out_width // tiles) + 1):
                yield Tile(tiles * rows, nv), rows, 0
            for lines in range(1, g.out_height // tiles + 1):
                rows = (lines - 1) * pitch + g.out_width
                if rows <= isa.tile_rows and not (broken and lines > 1):
                    yield Tile(tiles * lines * g.out_width, nv, tiles * lines), rows, pitch if lines > 1 else 0


def _cost(plan: TilePlan) -> float:
    """Return about how many cycles a plan takes for an image.

    A product takes a cycle for each row of its activations or weights, whichever are more; two rows are loaded in a
    cycle; weights that don't stay in the first-level cache come as `tiling` has it. The slowest of these sets the pace.
    The epilogue comes on top, with a store for each pixel: more channels in a tile are fewer stores.
    """
    g, tile, isa = plan.geometry, plan.tile, plan.isa
    weight_rows = plan.depth // VALUES_PER_ROW
    steps = plan.steps * g.segments[0] * g.segments[1]
    step_bytes = tile.nv * isa.lanes * plan.depth
    products = plan.tiles * tile.nv * max(plan.rows, weight_rows)
    loads = (plan.tiles * plan.rows + tile.nv * weight_rows) / 2
    fetched = step_bytes / BYTES_PER_CYCLE if steps * step_bytes > resident_bytes(isa) else 0
    epilogue = 5 * tile.mr * tile.nv + 2 * tile.mr + 2 * plan.tiles * plan.rows * tile.nv + 20
    runs = -(-g.out_width // tile.columns) * -(-g.out_height // tile.lines) * plan.blocks
    return runs * (steps * (max(products, loads, fetched) + 4) + epilogue)


class TileNest(Nest):
    """The nest with its accumulators in tile registers."""

    fused_steps: ClassVar[int] = 0

    def __init__(self, plan: TilePlan, isa: TileInstructionSet, epilogue: Epilogue) -> None:
        super().__init__(plan, ("uint8", "int8", "int32"), epilogue)
        self.tile_plan, self.isa = plan, isa
        self.first_weights = plan.tiles * plan.tile.nv
        self.first_activations = self.first_weights + plan.tile.nv

    def worth_sharing(self) -> bool:
        """Return whether this is large enough for several threads."""
        return worth_sharing(self.plan.geometry, self.isa, PRODUCTS_PER_LANE)

    def allocate(self) -> None:
        """Shape the tile registers, and declare where the epilogue finds their sums."""
        plan, row_bytes = self.tile_plan, self.isa.lanes * 4
        self.acc = register_buffer(plan.tiles * plan.rows * self.block_channels, "int32")
        sums = [(plan.rows, row_bytes)] * self.first_weights
        weights = [(plan.depth // VALUES_PER_ROW, row_bytes)] * plan.tile.nv
        activations = [(plan.rows, plan.depth)] * (self.isa.tiles - self.first_activations)
        self.isa.configure([*sums, *weights, *activations])

    def release(self) -> None:
        """Give the tile registers back."""
        self.isa.release()

    def start(self, place: Place) -> None:
        """Set the sums to the bias, the same in each row."""
        for tile in range(self.tile_plan.tiles):
            for v in range(self.plan.tile.nv):
                self.isa.load(self._sums(tile, v), self.bias, place.packed + v * self.isa.lanes, 0)

    def step(self, place: Place, ky: Any, kx: Any, offset: Any, number: Any) -> None:
        """Multiply each tile of activations with each tile of weights; see the base class."""
        plan, nv = self.tile_plan, self.plan.tile.nv
        width = self.isa.lanes * plan.depth
        for v in range(nv):
            start = place.weights + (number * nv + v) * width
            self.isa.load(self.first_weights + v, self.weights, start, self.isa.lanes * VALUES_PER_ROW)
        x = place.x + self.segment(ky, kx) + offset
        stride = plan.geometry.strides[1] * self.channels_in
        for tile in range(plan.tiles):
            free = self.isa.tiles - self.first_activations
            register = self.first_activations + tile % free
            self.isa.load(register, self.x, x + self.input_offset(plan.first_pixel(tile)), stride)
            for v in range(nv):
                self.isa.multiply(self._sums(tile, v), register, self.first_weights + v)

    def collect(self) -> None:
        """Store the sums row by row, a pixel's vectors together."""
        plan, nv, lanes = self.tile_plan, self.plan.tile.nv, self.isa.lanes
        for tile in range(plan.tiles):
            for v in range(nv):
                start = (tile * plan.rows * nv + v) * lanes
                self.isa.store(self._sums(tile, v), self.acc, start, nv * lanes * 4)

    def register(self, i: int, v: int) -> Any:
        """Return the place in `acc` of the sums of pixel i and vector v."""
        return super().register(self.tile_plan.row_of(i), v)

    def _sums(self, tile: int, v: int) -> int:
        return tile * self.plan.tile.nv + v
