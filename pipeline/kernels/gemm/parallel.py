"""How a product is divided into tasks for several threads, and when a single thread is faster.

Of two threads, each gets half of the tasks, in order. So the memory that a thread reads and writes is contiguous, and
it is the memory that the same thread has read and written in the layer before.
"""

from __future__ import annotations

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.isa.contract import InstructionSet

PARALLEL_CYCLES = 10_000
"""Operations that take fewer cycles run on the calling thread, as waking another one takes some 3,000 cycles."""

OUTPUTS_PER_CYCLE, BYTES_PER_CYCLE = 6, 8
"""How many outputs the epilogue finishes in a cycle, and how many bytes of weights arrive from the distant caches."""

TASKS = 8
"""How many tasks a product is divided into: enough for equal shares; a power of two, as for two threads."""

LEAST_TILES = 2
"""Smallest number of tiles in a chunk, among which prefetching the next block's weights is divided."""

OUTWEIGHED = 4
"""If there are this many times as many weights as activations, threads share channel blocks instead of tiles.

Each thread then reads all activations, half of which are in another core's cache.
"""


def worth_threads(geometry: Geometry, isa: InstructionSet, depth: int) -> bool:
    """Return whether an operation is large enough for several threads, if each instruction sums `depth` products."""
    pixels = geometry.batch * geometry.out_height * geometry.out_width
    outputs = pixels * geometry.groups * geometry.group_out
    products = geometry.products / (2 * isa.lanes * depth)
    weights = geometry.products / pixels / BYTES_PER_CYCLE
    return max(products + outputs / OUTPUTS_PER_CYCLE, weights) >= PARALLEL_CYCLES


def chunks_and_runs(tiles: int, blocks: int, *, outweighed: float, most_chunks: int) -> tuple[int, int]:
    """Return how many chunks tiles and how many runs channel blocks are divided into; a task is a chunk and a run.

    Args:
        tiles: how many there are.
        blocks: the same, of all groups.
        outweighed: how many times as many values weights have as activations.
        most_chunks: a power of two.
    """
    if blocks >= TASKS and outweighed > OUTWEIGHED:
        return 1, blocks
    chunks = most_chunks
    while chunks > 1 and chunks * LEAST_TILES > tiles:
        chunks //= 2
    return chunks, min(TASKS // chunks, blocks)
