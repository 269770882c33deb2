"""The loop nest of `lane_nest` for instructions that multiply several pixels by several channels, or many values.

Sums are in other places than a vector of channels for each pixel: `InstructionSet.multiply_block` says where. For the
epilogue, `sum_blocks` brings them there.

                  sums of a register               a tile of 4 pixels by 8 channels
    usmmla        2 pixels x 2 channels            2 x 4 registers, 8 values in a step
    sdot          1 x 4                            4 x 2 registers, 4 values in a step
    smull, ...    1 x 1, in four lanes             4 x 8 registers, 16 values in a step
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.lane_nest import LaneNest
from pipeline.kernels.gemm.nest import Place
from pipeline.kernels.gemm.panel_tile import LOADED
from pipeline.kernels.isa.contract import Blocks, Stream
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.vectors import span


class BlockNest(LaneNest):
    """The nest, with accumulators of blocks of pixels and channels."""

    @property
    def product(self) -> Blocks:
        """What an instruction multiplies."""
        return self.plan.isa.blocks(self.dtypes[0])

    @property
    def pixel_blocks(self) -> int:
        """How many blocks have the pixels of a tile."""
        return self.plan.tile.mr // self.product.pixels

    def pixel_block(self, i: int) -> tuple[int, int]:
        """Return the number of the block that has pixel i of a tile, and the pixel's place in it."""
        return divmod(i, self.product.pixels)

    @property
    def blocks_per_vector(self) -> int:
        """How many blocks have the channels of a vector."""
        return self.plan.isa.lanes // self.product.channels

    @property
    def lanes_share_sums(self) -> bool:
        """Whether several lanes hold a sum together."""
        return self.blocks_per_vector > self.product.pixels

    def allocate(self) -> None:
        """Declare the accumulators."""
        tile, isa = self.plan.tile, self.plan.isa
        blocks = self.pixel_blocks * tile.nv * self.blocks_per_vector
        self.acc = register_buffer(blocks * isa.lanes, self.dtypes[2])

    def start(self, place: Place) -> None:
        """Set all accumulators to the bias, or to zero where several lanes hold a sum.

        Where an accumulator is a vector of bias, that is loaded for each pixel, as one load takes the place of several
        copies; but not of float32, which is loaded into neighbouring registers, where LLVM wouldn't keep so many sums.
        """
        tile, isa, product, per_vector = self.plan.tile, self.plan.isa, self.product, self.blocks_per_vector
        if per_vector == product.pixels == 1 and self.dtypes[2] == "int32":
            for first in range(0, tile.nv, LOADED):
                count = min(LOADED, tile.nv - first)
                bias = isa.stream(self.bias, place.bias + first * isa.lanes)
                for pixel in range(self.pixel_blocks):
                    for v, vector in enumerate(bias.take(count, T.int64(0))):
                        T.buffer_store(self.acc, vector, [self.block(pixel, first + v)])
            return
        for v in range(tile.nv):
            for block in range(per_vector):
                channels = range(block * product.channels, (block + 1) * product.channels)
                value = T.Shuffle([self._bias(place, v)], [*channels] * product.pixels)
                if self.lanes_share_sums:
                    value = T.broadcast(T.int32(0), isa.lanes)
                for pixels in range(self.pixel_blocks):
                    T.buffer_store(self.acc, value, [self.block(pixels, v * per_vector + block)])

    def multipliers(self, place: Place) -> list[Any]:
        """Return the multipliers of a block, several from each load; see the base class."""
        if self.lanes_share_sums:
            return super().multipliers(place)
        isa, starts = self.plan.isa, [k * self.packed_channels for k in range(self.epilogue.scales)]
        streams = [isa.stream(self.multiplier, place.packed + start) for start in starts]
        if self.epilogue.addends:
            for stream in streams:
                self.wait(stream)
        return [vector for stream in streams for vector in stream.take(self.plan.tile.nv)]

    def add_products(self, values: Callable[[int], Any], weights: Iterator[Any], step: int) -> None:
        """Add the products of one step to all accumulators; see the base class."""
        together = self.product.pixels
        for block in range(self.plan.tile.nv * self.blocks_per_vector):
            vector = next(weights)
            for number in range(self.pixel_blocks):
                pixels = [values(number * together + p) for p in range(together)]
                self.multiply_block(self.block(number, block), pixels, step, vector)

    def multiply_block(self, at: Any, pixels: Sequence[Any], step: int, weights: Any) -> None:
        """Add the products of one step to the accumulator at a place.

        Args:
            at: the place.
            pixels: of each pixel what `LaneNest.prepared` returned.
            step: which of the loaded steps.
            weights: those of a block of channels.
        """
        T.buffer_store(self.acc, self.plan.isa.multiply_block(self.acc[at], pixels, step, weights), [at])

    def wait(self, stream: Stream) -> None:
        """Have LLVM load what is taken next after all sums so far; see the base class."""
        stream.wait(self.sums_in_registers())

    def sums_in_registers(self) -> list[Any]:
        """Return the vectors of accumulators; see the base class."""
        blocks = range(self.plan.tile.nv * self.blocks_per_vector)
        sums = [self.acc[self.block(pixels, block)] for pixels in range(self.pixel_blocks) for block in blocks]
        return sums if self.dtypes[2] == "int32" else [T.reinterpret(f"int32x{self.plan.isa.lanes}", s) for s in sums]

    def sums(self, place: Place, i: int, v: int) -> Any:
        """Return the finished sums of pixel i and vector v."""
        result = self.summed(self.acc, i, v)
        return result + self._bias(place, v) if self.lanes_share_sums else result

    def summed(self, accumulators: Any, i: int, v: int) -> Any:
        """Return the sums of pixel i and vector v in a buffer of accumulators."""
        number, pixel = self.pixel_block(i)
        channels = range(v * self.blocks_per_vector, (v + 1) * self.blocks_per_vector)
        blocks = [accumulators[self.block(number, block)] for block in channels]
        return blocks[0] if len(blocks) == 1 else self.plan.isa.sum_blocks(blocks)[pixel]

    def _bias(self, place: Place, v: int) -> Any:
        return self.bias[span(place.bias + v * self.plan.isa.lanes, self.plan.isa.lanes)]

    def block(self, pixels: int, channels: int) -> Any:
        """Return the place in `acc` of the sums of a block of pixels and one of channels, by their numbers."""
        tile, lanes = self.plan.tile, self.plan.isa.lanes
        return span((pixels * tile.nv * self.blocks_per_vector + channels) * lanes, lanes)
