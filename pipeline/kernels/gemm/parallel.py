"""How threads share a product: whether they do, and how it is cut into tasks.

Each of two threads gets half of the tasks, in order, so that what it reads and writes lies together, and is what it has
read and written in the layer before.
"""

from __future__ import annotations

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.isa.contract import InstructionSet

PARALLEL_CYCLES = 10_000
"""Shorter operations run on the calling thread: calling another one takes some 3,000 cycles."""

OUTPUTS_PER_CYCLE, BYTES_PER_CYCLE = 6, 8
"""How many outputs are finished, and how many bytes of weights come from afar, in a cycle."""

TASKS = 8
"""Into how many tasks a product is cut, so that few threads get equal shares; a power of two, for two threads."""

LEAST_TILES = 2
"""In a chunk, to share the next block's coming."""

OUTWEIGHED = 4
"""By how much weights have to outweigh activations for threads to share channel blocks, not tiles.

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
    """Return into how many chunks tiles, and into how many runs channel blocks are cut: a task is one of each.

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
