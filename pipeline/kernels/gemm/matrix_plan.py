"""How a product is divided for matrix registers, and how long that takes; `matrix_nest` has the loops.

A matrix register holds 16 pixels by 64 values of a segment, which are loaded from the NHWC input as they lie there: its
rows begin as far apart as neighbouring pixels do. Where a line of the output has few pixels, a matrix register may span
several lines, as the pixels of the next one follow at the same distance, with some between them that nobody needs:

    7 x 7 outputs, from 9 x 9 inputs: rows 0 to 6 are a line, 7 and 8 are idle, 9 to 15 are the next line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.gemm.plan import Plan
from pipeline.kernels.gemm.register_tile import RegisterTile
from pipeline.kernels.isa.x86.amx import MatrixInstructionSet
from pipeline.kernels.machine import CACHE_LINE, Machine

VALUES_PER_ROW = 4
"""How many values of a pixel are multiplied with each row of a matrix of weights."""

MIN_SEGMENT = 16
"""Segments with fewer values leave most of a matrix register empty, so that vectors are as fast."""

MIN_PIXELS = 4
"""With fewer pixels, loading weights takes longer than multiplying them."""

MIN_PRODUCT_CYCLES = 10
"""Smallest number of cycles of a product of matrix registers."""

STEP_CYCLES, TILE_CYCLES = 2, 30
"""Additional cycles for each step, and for each tile."""

VECTORS_TOGETHER, WHOLE_CYCLES, LEFT_CYCLES = 4, 12, 4
"""How many vectors of sums are best finished together; cycles for these, and for each vector that is left over."""

CROWDING_CYCLES = 4
"""Cycles times the square of the number of matrix registers that hold sums, which crowd the first-level cache."""


@dataclass(frozen=True)
class MatrixPlan(Plan):
    """A plan for matrix registers.

    Attributes:
        rows: of a matrix register of activations or sums.
        pitch: how many rows one line of the output is below the one before in a matrix register; 0 if it has only one.
        registers: how many matrix registers there are.
    """

    rows: int
    pitch: int
    registers: int

    @property
    def parts(self) -> tuple[Plan, ...]:
        """This plan alone."""
        return (self,)

    @property
    def register_lines(self) -> int:
        """How many lines of the output a matrix register spans."""
        return 1 if self.pitch == 0 else (self.rows - self.tile.columns) // self.pitch + 1

    @property
    def matrices(self) -> int:
        """How many matrix registers of activations share the same weights."""
        return self.tile.lines // self.register_lines * max(1, self.tile.columns // self.rows)

    @property
    def sums(self) -> int:
        """How many matrix registers hold sums."""
        return self.matrices * self.tile.nv

    @property
    def held_activations(self) -> int:
        """How many matrix registers of activations stay for all weights of a step; 0 if they don't."""
        return self.matrices if self.matrices < self.registers - self.sums else 0

    @property
    def weight_registers(self) -> int:
        """How many matrix registers weights take; fewer than `nv` are used in turn."""
        free = self.registers - self.sums
        if self.held_activations:
            return min(free - self.matrices, self.tile.nv)
        return self.tile.nv if self.tile.nv < free else 1

    @property
    def loaded_activations(self) -> int:
        """How many matrices of activations a step loads."""
        again = not self.held_activations and self.weight_registers < self.tile.nv
        return self.matrices * (self.tile.nv if again else 1)

    @property
    def lines_per_row(self) -> float:
        """How many cache lines a row of activations touches, on average."""
        aligned = self.geometry.groups * self.geometry.group_in % CACHE_LINE == 0
        return 1.0 if aligned else 1 + (self.depth - 1) / CACHE_LINE

    def row_of(self, i: int) -> int:
        """Return in which row the sums of pixel i are, through all matrix registers."""
        line, column = divmod(i, self.tile.columns)
        matrix, line = divmod(line, self.register_lines)
        return matrix * self.rows + line * self.pitch + column

    def first_pixel(self, matrix: int) -> int:
        """Return which pixel the first row of a matrix register is for."""
        return matrix * self.tile.mr // self.matrices


def fits_matrices(geometry: Geometry) -> bool:
    """Return whether matrix registers are faster than vectors."""
    g = geometry.flattened()
    return g.segment_length >= MIN_SEGMENT and g.out_width >= MIN_PIXELS


def matrix_instruction_set(machine: Machine) -> MatrixInstructionSet:
    """Return a machine's instruction set, which has to have matrix registers."""
    if not isinstance(machine.isa, MatrixInstructionSet):
        raise TypeError(f"Expected an instruction set with matrix registers, got {machine.isa.name}")
    return machine.isa


def make_matrix_plan(geometry: Geometry, machine: Machine) -> MatrixPlan:
    """Return the cheapest plan: see `_cycles`."""
    return min(matrix_plans(geometry, machine), key=lambda plan: (_cycles(plan), plan.tile.mr, plan.tile.nv, plan.rows))


def matrix_plans(geometry: Geometry, machine: Machine) -> Iterator[MatrixPlan]:
    """Yield all plans: matrix registers side by side in a line, or whole lines below each other."""
    isa = matrix_instruction_set(machine)
    g = geometry.flattened().merged(isa.lanes)
    vectors, length = -(-g.group_out // isa.lanes), g.segment_length
    steps = -(-length // isa.matrix_row_bytes)
    depth = -(-length // (steps * VALUES_PER_ROW)) * VALUES_PER_ROW
    if depth > length + g.readable_beyond:
        depth = length // VALUES_PER_ROW * VALUES_PER_ROW

    def plan(tile: RegisterTile, rows: int, pitch: int) -> MatrixPlan:
        return MatrixPlan(g, machine, depth, tile, vectors, 1, 1, rows, pitch, isa.matrix_registers)

    pitch, broken = divmod(g.strides[0] * g.width, g.strides[1])
    most_sums = isa.matrix_registers - 2
    for nv in range(1, min(vectors, most_sums) + 1):
        for matrices in range(1, most_sums // nv + 1):
            for rows in range(1, min(isa.matrix_rows, g.out_width // matrices) + 1):
                yield plan(RegisterTile(matrices * rows, nv), rows, 0)
            for lines in range(1, g.out_height // matrices + 1):
                rows = (lines - 1) * pitch + g.out_width
                if rows <= isa.matrix_rows and not (broken and lines > 1):
                    yield plan(
                        RegisterTile(matrices * lines * g.out_width, nv, matrices * lines),
                        rows,
                        pitch if lines > 1 else 0,
                    )


def _cycles(plan: MatrixPlan) -> float:
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
    if steps * plan.block_channels * plan.depth > plan.machine.resident_bytes:
        loads += tile.nv * weight_rows
    whole, left = divmod(tile.mr * tile.nv, VECTORS_TOGETHER)
    if g.group_out != plan.block_channels:
        whole, left = tile.mr * (tile.nv // VECTORS_TOGETHER), tile.mr * (tile.nv % VECTORS_TOGETHER)
    epilogue = WHOLE_CYCLES * whole + LEFT_CYCLES * left + plan.sums * plan.rows
    runs = -(-g.out_width // tile.columns) * -(-g.out_height // tile.lines) * plan.blocks
    per_tile = TILE_CYCLES + CROWDING_CYCLES * plan.sums**2
    return runs * (steps * (max(products, loads) + STEP_CYCLES) + epilogue + per_tile)
