"""The loop nest of `nest` for instructions that take a step's values from any place in a register.

One load then brings a pixel's values for several steps: 16 bytes are four steps of `sdot`, or of float32.

    for segment:
        for group of `steps_per_load` steps:       activations: one load for each pixel
            for step of the group:                 unrolled
                for vector v, pixel i:             unrolled: accumulator (i, v) += a lane of i's values * weights of v
        for each step that is left over:           from the segment's last values, which are loaded together, too

Weights are read as one stream, which the CPUs that have such instructions fetch ahead of by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.micro_kernel import step_values
from pipeline.kernels.gemm.nest import Nest, Place
from pipeline.kernels.isa.contract import Stream
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.vectors import lanes_of, span

LANE_BYTES = 4

MOST_UNROLLED = 6
"""Iterations of a loop that LLVM may unroll completely."""

MANY_TILES = 4
"""Tiles in a row, from which on a loop of their own saves instructions."""

LEAST_UNROLLED = 4
"""Loads of a pixel in a segment, from which on several are together in the loop's body."""


class LaneNest(Nest):
    """The nest, with a pixel's values for several steps in one register."""

    def weights_may_be_kept(self) -> bool:
        """Return true: loads in loops aren't taken out of these."""
        return True

    def compute_tiles(self, block: Any, first: Any, count: Any) -> None:
        """Compute `count` tiles of a channel block, from number `first` on; see the base class.

        Where a row has many, there is a loop for its tiles within one for the rows, so that less depends on each tile.
        """
        if self.tiles < MANY_TILES or self.tiles == self.all_tiles:
            super().compute_tiles(block, first, count)
            return
        behind, first_band = first + count, first // self.tiles
        with T.serial((behind - 1) // self.tiles + 1 - first_band) as b:
            band = T.bind(first_band + b)
            start = T.bind(T.max(first - band * self.tiles, 0))
            with T.serial(T.min(behind - band * self.tiles, self.tiles) - start) as t:
                self.compute_tile(self.place_in(block, band, start + t, 0))

    def reduce(self, place: Place) -> None:
        """Add all products to a tile's accumulators."""
        plan, together = self.plan, self.plan.steps_per_load
        rows, columns = plan.geometry.segments
        groups = plan.geometry.segment_length // (together * plan.depth)
        weights = plan.isa.stream(self.weights, self.first_weight(place))
        with T.serial(rows - place.below - place.above) as row, T.serial(columns) as kx:
            x = place.x + self.segment(place.above + row, kx)
            unrolled = plan.loads_together if groups >= LEAST_UNROLLED else 1
            with T.serial(self.iterations(groups // unrolled)) as k:
                self._groups(x, k * unrolled, unrolled, weights)
            left = groups % unrolled
            if left:
                self.wait(weights)
                self._groups(x, groups - left, left, weights)
            self._rest(x, range(groups * together, plan.steps), weights)

    def first_weight(self, place: Place) -> Any:
        """Return where the weights are that a tile takes first."""
        return place.weights + place.above * (self.block_weights // self.plan.geometry.kernel[0])

    def wait(self, stream: Stream) -> None:
        """Have LLVM load what is taken next after all sums so far, where it would run out of registers otherwise."""

    def iterations(self, count: int) -> Any:
        """Return how often a loop runs, so that LLVM doesn't unroll short ones, whose steps it would mix."""
        return self.plan.isa.iterations(count) if count <= MOST_UNROLLED else count

    def _groups(self, x: Any, group: Any, count: int, weights: Stream) -> None:
        """Add the products of all steps of the `count` loads of a segment from number `group` on."""
        together = self.plan.steps_per_load
        vectors = weights.take(count * together * self.vectors_per_step)
        for load in range(count):
            self._steps(x + (group + load) * together * self.plan.depth, range(together), vectors)

    def _rest(self, x: Any, steps: Sequence[int], weights: Stream) -> None:
        """Add the products of a segment's last steps, which are fewer than one load brings."""
        plan, together = self.plan, self.plan.steps_per_load
        length = plan.geometry.segment_length
        if not steps:
            return
        self.wait(weights)
        vectors = weights.take(len(steps) * self.vectors_per_step)
        if length % plan.depth == 0 or len(steps) == plan.steps_at_end > 1:
            # The last load overlaps the one before; its first values have been counted.
            self._steps(x + length - together * plan.depth, range(together - len(steps), together), vectors)
            return
        for step in steps:
            self._steps(x + tails.start(step, plan.depth, length), (0,), vectors)

    @property
    def vectors_per_step(self) -> int:
        """How many vectors of weights a step takes."""
        weight_bytes = np.dtype(self.dtypes[1]).itemsize
        return self.plan.block_channels * self.plan.depth * weight_bytes // (self.plan.isa.lanes * LANE_BYTES)

    def _steps(self, x: Any, steps: Sequence[int], weights: Iterator[Any]) -> None:
        """Add the products of some steps to all accumulators.

        Args:
            x: where the first pixel's values begin.
            steps: which of the loaded steps to add; if it is the first alone, only its values are loaded.
            weights: vectors of weights, those of these steps next.
        """
        plan = self.plan
        loaded = plan.depth * (1 if tuple(steps) == (0,) else plan.steps_per_load)

        @functools.cache
        def values(i: int) -> Any:
            return self.prepared(step_values(self.x, x + self.input_offset(i), loaded, plan.geometry.segment_length))

        for step in steps:
            self.add_products(values, weights, step)

    def prepared(self, values: Any) -> Any:
        """Return a pixel's values that were loaded, as they are multiplied, in registers."""
        return self.plan.isa.held(T.bind(self.activations(values)))

    def add_products(self, values: Callable[[int], Any], weights: Iterator[Any], step: int) -> None:
        """Add the products of one step to all accumulators.

        Weights are used by all pixels at once, so that few of them need registers.

        Args:
            values: of a pixel: what was loaded of it, as it is multiplied.
            weights: vectors of weights, those of the step next.
            step: which of the loaded steps.
        """
        tile, lanes = self.plan.tile, self.plan.isa.lanes
        for v in range(tile.nv):
            vector = next(weights)
            for i in range(tile.mr):
                at = span((i * tile.nv + v) * lanes, lanes)
                T.buffer_store(self.acc, self._multiply(self.acc[at], values(i), step, vector), [at])

    def _multiply(self, acc: Any, vector: Any, step: int, weights: Any) -> Any:
        """Return an accumulator plus the products of one of the steps that were loaded."""
        value = T.Shuffle([vector], [step]) if lanes_of(vector) > 1 else vector
        return self.plan.isa.multiply_add(acc, value, weights)
