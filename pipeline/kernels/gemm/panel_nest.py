"""The loop nest of `block_nest` on copied activations: those of neighbouring pixels in a step lie together.

One load then brings a step's values of several pixels, and all that is in registers beside accumulators is one step's
values and weights: tiles may be larger, and where an instruction multiplies pairs of pixels, they needn't be joined in
the loop. Each tile's columns of a row of the input are a *panel*, those that neighbours share in both, and copied
before all products, as other values lie between them in NHWC:

    [row of the input][tile in a row][step of the channels][column modulo stride][column][values of a step]

    for row of the kernel, column of the kernel:
        for some steps of the channels:            unrolled
            activations, weights: a load for several pixels, or for several vectors
            for vector v, pixel i:                 unrolled: accumulator (i, v) += values of i * weights of v

The order of the weights is that of `nest`, as a step never has values of two columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.block_nest import BlockNest
from pipeline.kernels.gemm.nest import Nest, Place
from pipeline.kernels.gemm.panel_tile import Panels
from pipeline.kernels.isa.contract import Stream
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.vectors import lanes_of, span, vector_type


class PanelNest(BlockNest):
    """The nest, with activations in panels."""

    @property
    def layout(self) -> Panels:
        """The order of the copied activations."""
        return Panels(self.plan.geometry, self.product, self.plan.tile)

    @property
    def panel_dtype(self) -> str:
        """The dtype of copied activations."""
        return "float32" if self.dtypes[0] == "float32" else "int8"

    def prepare(self, loop: Callable[[int], Any]) -> None:
        """Copy the activations."""
        g, layout, loaded = self.plan.geometry, self.layout, self.product.loaded
        rows = g.batch * g.height
        # The last load of a step may go beyond it.
        size = rows * self.tiles * layout.values + loaded
        self.panels = T.alloc_buffer((size,), self.panel_dtype)
        with loop(rows * self.tiles) as panel:
            column = tails.start(panel % self.tiles, self.plan.tile.columns, g.out_width) * g.strides[1]
            x = (panel // self.tiles * g.width + column) * g.group_in
            with T.serial(-(-g.group_in // loaded)) as k:
                channel = tails.start(k, loaded, g.group_in)
                self._copy(x + channel, panel * layout.values + channel // layout.depth * layout.step_values)

    def _copy(self, x: Any, y: Any) -> None:
        """Copy as many channels of a panel's columns as a load brings: from x, in NHWC, to y."""
        g, layout, loaded = self.plan.geometry, self.layout, self.product.loaded
        together = loaded // layout.depth
        for phase, count in enumerate(layout.columns):
            for first in range(0, count, together):
                columns = [c * g.strides[1] + phase for c in range(first, min(first + together, count))]
                # Else LLVM would load them again after each store, which might have changed them.
                vectors = [T.bind(self.activations(self.x[span(x + c * g.group_in, loaded)])) for c in columns]
                at = y + (phase * layout.phase_columns + first) * layout.depth
                for step, vector in enumerate(_transposed(vectors, layout.depth)):
                    T.buffer_store(self.panels, vector, [span(at + step * layout.step_values, loaded)])

    def use_buffers(self, other: Nest) -> None:
        """Read and write what another nest reads and writes."""
        super().use_buffers(other)
        if isinstance(other, PanelNest):
            self.panels = other.panels

    def first_value(self, row: Any, column: Any, tile: Any) -> Any:
        """Return where the panel of a tile is that has its first value; see the base class."""
        return (row * self.tiles + tile) * self.layout.values

    @property
    def pixel_blocks(self) -> int:
        """How many blocks have the pixels of a tile; the last one of each row may have fewer."""
        return self.plan.tile.lines * self._line_blocks

    def pixel_block(self, i: int) -> tuple[int, int]:
        """Return the number of the block that has pixel i of a tile, and the pixel's place in it."""
        line, column = divmod(i, self.plan.tile.columns)
        number, place = divmod(column, self.product.pixels)
        return line * self._line_blocks + number, place

    @property
    def _line_blocks(self) -> int:
        return -(-self.plan.tile.columns // self.product.pixels)

    def reduce(self, place: Place) -> None:
        """Add all products to a tile's accumulators."""
        g, layout = self.plan.geometry, self.layout
        weights = self.plan.isa.stream(self.weights, self.first_weight(place))
        row_values = g.dilation[0] * self.tiles * layout.values
        together, steps = self.plan.loads_together, layout.steps
        line_values = g.strides[0] * self.tiles * layout.values
        distance = self.plan.isa.distance(layout.loads, layout.step_values * np.dtype(self.panel_dtype).itemsize)
        with T.serial(g.kernel[0] - place.below - place.above) as row, T.serial(g.kernel[1]) as kx:
            x = place.x + (place.above + row) * row_values + layout.column(kx * g.dilation[1])
            lines = [self.plan.isa.stream(self.panels, x + n * line_values) for n in range(self.plan.tile.lines)]
            with T.serial(self.iterations(steps // together)) if steps > together else nullcontext():
                self._panel_steps(lines, distance, together, weights)
            self._panel_steps(lines, distance, steps % together, weights)

    def _panel_steps(self, lines: list[Stream], distance: Any, count: int, weights: Stream) -> None:
        """Add the products of the next steps to all accumulators: of the values of each line, and of weights."""
        for _ in range(count):
            loaded = [list(line.take(self.layout.loads, distance)) for line in lines]
            self._add(loaded, weights.take(self.vectors_per_step))
            # Else LLVM loads the values of many steps at once, and runs out of registers.
            for stream in (*lines, weights):
                self.wait(stream)

    def _add(self, loaded: list[list[Any]], weights: Iterator[Any]) -> None:
        """Add the products of a step: of the vectors of each line, and of the next weights."""
        tile, product = self.plan.tile, self.product
        together = product.loaded // product.depth
        for block in range(tile.nv * self.blocks_per_vector):
            vector = next(weights)
            for line, values in enumerate(loaded):
                for column in range(0, tile.columns, product.pixels):
                    at = self.block(self.pixel_block(line * tile.columns + column)[0], block)
                    pixels = values[column // together]
                    T.buffer_store(self.acc, self._product(self.acc[at], pixels, column % together, vector), [at])

    def _product(self, acc: Any, values: Any, first: int, weights: Any) -> Any:
        """Return an accumulator plus the products of the pixels from number `first` on, of those in a vector."""
        isa = self.plan.isa
        if self.dtypes[0] == "float32":
            return isa.multiply_add(acc, T.Shuffle([values], [first]), weights)
        pixels = T.reinterpret(f"{isa.activation_dtype}x{isa.load_bytes}", values)
        return isa.multiply_neighbours(acc, pixels, first, weights)


def _transposed(vectors: list[Any], depth: int) -> list[Any]:
    """Return vectors, one of each pixel, as one for each `depth` values, with those of all pixels.

    It takes shuffles of two vectors at a time: of those of four, LLVM makes more instructions.

    Args:
        vectors: of as many values as there is room for pixels, or of fewer pixels; then the other lanes are anything.
        depth: how many values stay together.
    """
    dtype, width = str(vectors[0].ty.dtype).rpartition("x")[0], lanes_of(vectors[0]) // depth
    words = vectors if depth == 1 else [T.reinterpret(vector_type(f"int{8 * depth}", width), v) for v in vectors]
    if len(words) == 1:
        words = [T.Shuffle(words, [step] * width) for step in range(width)]
    elif len(words) == 2:
        halves = [_interleaved(words, half) for half in range(2)]
        order = [range(2 * s, 2 * s + 2) for s in range(width // 2)]
        words = [T.Shuffle([half], [*pair] * (width // 2)) for half in halves for pair in order]
    else:
        words += [words[-1]] * (width - len(words))
        for _ in range(width.bit_length() - 1):
            pairs = zip(words[: width // 2], words[width // 2 :], strict=True)
            words = [_interleaved(pair, half) for pair in pairs for half in range(2)]
    return words if depth == 1 else [T.reinterpret(vector_type(dtype, width * depth), word) for word in words]


def _interleaved(pair: Sequence[Any], half: int) -> Any:
    """Return the lower or the upper halves of two vectors, lane by lane."""
    lanes = lanes_of(pair[0])
    first = half * lanes // 2
    return T.bind(T.Shuffle(list(pair), [v * lanes + first + k for k in range(lanes // 2) for v in range(2)]))
