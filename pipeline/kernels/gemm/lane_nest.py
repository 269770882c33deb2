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
from collections.abc import Callable, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.micro_kernel import step_values
from pipeline.kernels.gemm.nest import Nest, Place
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.vectors import lanes_of, span

MOST_UNROLLED_LOADS = 6
"""Of a pixel, in reductions that LLVM may unroll completely."""

LEAST_UNROLLED = 4
"""Loads of a pixel in a segment, from which on several are together in the loop's body."""


class LaneNest(Nest):
    """The nest, with a pixel's values for several steps in one register."""

    def weights_may_be_kept(self) -> bool:
        """Return whether they would stay in registers: LLVM would put those of a short reduction on the stack."""
        return self.total_steps > MOST_UNROLLED_LOADS * self.plan.steps_per_load

    def reduce(self, place: Place) -> None:
        """Add all products to a tile's accumulators."""
        plan, together = self.plan, self.plan.steps_per_load
        rows, columns = plan.geometry.segments
        groups = plan.geometry.segment_length // (together * plan.depth)
        with T.serial(rows) as ky, T.serial(columns) as kx:
            first = (ky * columns + kx) * plan.steps
            unrolled = plan.loads_together if groups >= LEAST_UNROLLED else 1
            with T.serial(groups // unrolled) as k:
                for load in range(unrolled):
                    self._group(place, ky, kx, first, k * unrolled + load)
            for group in range(groups // unrolled * unrolled, groups):
                self._group(place, ky, kx, first, group)
            self._rest(place, ky, kx, first, range(groups * together, plan.steps))

    def _group(self, place: Place, ky: Any, kx: Any, first: Any, group: Any) -> None:
        """Add the products of all steps that one load brings."""
        together = self.plan.steps_per_load
        self._steps(place, ky, kx, group * together * self.plan.depth, first + group * together, range(together))

    def _rest(self, place: Place, ky: Any, kx: Any, first: Any, steps: Sequence[int]) -> None:
        """Add the products of a segment's last steps, which are fewer than one load brings."""
        plan, together = self.plan, self.plan.steps_per_load
        length = plan.geometry.segment_length
        if length % plan.depth == 0 and steps:
            # The last load overlaps the one before; its first lanes have been counted.
            counted = together - len(steps)
            start = length - together * plan.depth
            self._steps(place, ky, kx, start, first + steps[0] - counted, range(counted, together))
            return
        for step in steps:
            self._steps(place, ky, kx, tails.start(step, plan.depth, length), first + step, (0,))

    def _steps(self, place: Place, ky: Any, kx: Any, offset: Any, number: Any, steps: Sequence[int]) -> None:
        """Add the products of some steps to all accumulators.

        Args:
            place: the tile.
            ky: the segment's place along the kernel's height.
            kx: the same along its width.
            offset: of the first value to load in the segment.
            number: of the step that the first of these values are for, through all segments.
            steps: which of the steps from there on to add; if it is the first alone, only its values are loaded.
        """
        plan = self.plan
        width = plan.isa.lanes * plan.depth
        loaded = plan.depth * (1 if tuple(steps) == (0,) else plan.steps_per_load)
        x = place.x + self.segment(ky, kx) + offset

        def values(i: int) -> Any:
            vector = step_values(self.x, x + self.input_offset(i), loaded, plan.geometry.segment_length)
            return self.activations(vector)

        def weights(step: int, first: int, length: int) -> Any:
            return self.weights[span(place.weights + (number + step) * plan.tile.nv * width + first, length)]

        for step in steps:
            self.add_products(place, values, functools.partial(weights, step), step)

    def add_products(
        self, place: Place, values: Callable[[int], Any], weights: Callable[[int, int], Any], step: int
    ) -> None:
        """Add the products of one step to all accumulators.

        Weights are used by all pixels at once, so that few of them need registers.

        Args:
            place: the tile.
            values: of a pixel: what was loaded of it, as it is multiplied.
            weights: of the step: from the given one on, so many.
            step: which of the loaded steps.
        """
        plan, width = self.plan, self.plan.isa.lanes * self.plan.depth
        for v in range(plan.tile.nv):
            for i in range(plan.tile.mr):
                at = self.register(place, i, v)
                T.buffer_store(self.acc, self._multiply(self.acc[at], values(i), step, weights(v * width, width)), [at])

    def _multiply(self, acc: Any, vector: Any, step: int, weights: Any) -> Any:
        """Return an accumulator plus the products of one of the steps that were loaded."""
        value = T.Shuffle([vector], [step]) if lanes_of(vector) > 1 else vector
        return self.plan.isa.multiply_add(acc, value, weights)
