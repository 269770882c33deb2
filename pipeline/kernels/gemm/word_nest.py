"""The loop nest of `block_nest` for activations of 16 bits, whose two bytes are multiplied by instructions for bytes.

A quantized value of 16 bits is `x = 256 * h + l`, with h and l in -128..127 (`ops.SplitBytes`), so that
`sum(x * w) = 256 * sum(h * w) + sum(l * w)`. Each of both sums has accumulators of its own, which the epilogue joins.
Where an instruction multiplies 16 bytes but four words, that takes half as many instructions.

    for segment, group of steps:                   activations: two loads for each pixel, cut into high and low bytes
        for step, vector v, pixel i:               unrolled: high (i, v) += high bytes of i * weights of v; low as well
    high * 256 + low

All sums are modulo 2**32, and their total fits 32 bits, so it is exact whatever its parts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.block_nest import BlockNest
from pipeline.kernels.gemm.nest import Place
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.modular import Modular
from pipeline.kernels.lib.vectors import joined, lanes_of, part, splat, vector_type
from pipeline.ops import BYTE_ZERO_POINT

BOTH_BYTES = 257
"""What is added to both bytes of a value, times this, is added to the value."""

HALF_BYTE = 128
"""Added to a value of 16 bits, so that its high byte is rounded, not cut."""


def words_offset(isa: InstructionSet) -> int:
    """Return what is subtracted from values of 16 bits, whose bytes are multiplied as an instruction set takes them."""
    return BOTH_BYTES * (isa.activation_offset - BYTE_ZERO_POINT)


class WordNest(BlockNest):
    """The nest, with sums of the high bytes beside those of the low ones."""

    def allocate(self) -> None:
        """Declare the accumulators of low bytes, and those of high bytes."""
        super().allocate()
        self.high = register_buffer(int(self.acc.shape[0]), "int32")

    def start(self, place: Place) -> None:
        """Set the accumulators of low bytes to the bias, and those of high bytes to zero."""
        super().start(place)
        for pixels in range(self.pixel_blocks):
            for channels in range(self.plan.tile.nv * self.blocks_per_vector):
                T.buffer_store(self.high, splat(T.int32(0), self.plan.isa.lanes), [self.block(pixels, channels)])

    def prepared(self, values: Any) -> tuple[Any, Any]:
        """Return the high and the low bytes of values that were loaded, as they are multiplied, in registers."""
        isa, lanes = self.plan.isa, lanes_of(values)
        # Else LLVM would load single bytes of what is loaded already.
        registers = [part(values, first, min(2 * isa.lanes, lanes)) for first in range(0, lanes, 2 * isa.lanes)]
        words = T.reinterpret(vector_type("uint16", lanes), joined([isa.held(T.bind(r)) for r in registers]))
        low = words - splat(T.uint16(words_offset(isa) % 2**16), lanes)
        # What makes the low byte unsigned has rounded the high one already.
        high = low + splat(T.uint16(HALF_BYTE), lanes) if isa.activation_offset else low
        return tuple(isa.held(T.bind(self._every_other(bytes_of, first))) for bytes_of, first in ((high, 1), (low, 0)))

    def _every_other(self, words: Any, first: int) -> Any:
        """Return the low bytes of words, or the high ones: the first is 0, or 1."""
        lanes, dtype = lanes_of(words), self.plan.isa.activation_dtype
        both = T.reinterpret(f"{dtype}x{2 * lanes}", words)
        return T.Shuffle([both], list(range(first, 2 * lanes, 2)))

    def multiply_block(self, at: Any, pixels: Sequence[Any], step: int, weights: Any) -> None:
        """Add the products of one step to the accumulators of both bytes at a place; see the base class."""
        for accumulators, values in zip((self.high, self.acc), zip(*pixels, strict=True), strict=True):
            product = self.plan.isa.multiply_block(accumulators[at], values, step, weights)
            T.buffer_store(accumulators, product, [at])

    def sums(self, place: Place, i: int, v: int) -> Any:
        """Return the finished sums of pixel i and vector v, joined."""
        high, low = self.summed(self.high, i, v), super().sums(place, i, v)
        return (Modular(high) * 256 + Modular(low)).value
