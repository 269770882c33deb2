"""Second moments of what a layer's weights are multiplied with, collected while the float program runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import ops
from pipeline.ops.arrays import window_positions
from pipeline.quantization.statistics import BLOCK, HELD_BACK_EVERY, Statistic, is_held_back

Array = npt.NDArray[Any]

ROWS = 64
"""Positions of a convolution, or rows of a dense layer's input, that are looked at in a batch, spread evenly."""

ALL_UNTIL, EVERY = 64, 16
"""So many batches are looked at; later, one to learn from and one that is held back of so many."""

GROUP, LATER_GROUP = BLOCK, 8 * BLOCK
"""Of how many batches the rows are added to the moments at once: while all are looked at, and later."""

BITS = 7
"""To how many bits values are rounded, so that sums over a group's rows, at most 768 (12 of 16 batches are learned
from), are exact in float32 in any order: 768 products of 2**14 are less than 2**24."""


@dataclass(frozen=True)
class Columns:
    """How a layer's weights [O,...] are cut into blocks, within which moments are known.

    A channel of the result multiplies its weights with the columns of one group. These are cut into blocks of equal
    size, filled up with zeros; one input channel's steps of the kernel stand side by side.

    Attributes:
        operator: what the layer computes.
        shape: of the weights: [O,KH,KW,C/groups], or [O,C].
        width: the most columns that a block may have.
    """

    operator: ops.Conv2d | ops.Dense
    shape: tuple[int, ...]
    width: int

    @property
    def groups(self) -> int:
        """Of a convolution's channels; 1 for a dense layer."""
        return self.operator.groups if isinstance(self.operator, ops.Conv2d) else 1

    @property
    def count(self) -> int:
        """How many columns a group has."""
        return int(np.prod(self.shape[1:]))

    @property
    def blocks(self) -> int:
        """How many blocks a group has."""
        return -(-self.count // self.width)

    @property
    def block_width(self) -> int:
        """How many columns a block has."""
        return -(-self.count // self.blocks)

    def cut(self, weight: Array) -> Array:
        """Return weights of the layer's shape as [groups * blocks, O/groups, block_width]."""
        rows = np.moveaxis(weight, -1, 1).reshape(self.groups, -1, self.count)
        return np.ascontiguousarray(self._split(rows).transpose(0, 2, 1, 3)).reshape(
            -1, rows.shape[1], self.block_width
        )

    def joined(self, blocks: Array) -> Array:
        """Return weights of the layer's shape, of which `cut` makes these."""
        rows = blocks.reshape(self.groups, self.blocks, -1, self.block_width).transpose(0, 2, 1, 3)
        rows = rows.reshape(*rows.shape[:2], -1)[:, :, : self.count]
        return np.moveaxis(rows.reshape(self.shape[0], self.shape[-1], *self.shape[1:-1]), 1, -1)

    def seen(self, values: Array, most: int = ROWS) -> Array:
        """Return what the weights are multiplied with at some positions: [groups * blocks, block_width, positions].

        Args:
            values: the layer's input: [N,H,W,C], or [...,C].
            most: positions that are looked at.
        """
        if isinstance(self.operator, ops.Conv2d):
            found = self._windows(self.operator, values, most)
        else:
            flat = values.reshape(-1, values.shape[-1])
            found = flat[_spread(len(flat), most)].T[None]
        missing = self.blocks * self.block_width - self.count
        filled = np.pad(found, ((0, 0), (0, missing), (0, 0))) if missing else found
        return np.ascontiguousarray(filled).reshape(-1, self.block_width, found.shape[2])

    def _windows(self, convolution: ops.Conv2d, image: Array, most: int) -> Array:
        """Return [groups, count, positions]."""
        _, kernel_h, kernel_w, per_group = self.shape
        top, left, bottom, right = convolution.padding
        (dilation_h, dilation_w), (stride_h, stride_w) = convolution.dilation, convolution.strides
        batch, height, width, _ = image.shape
        out_h = window_positions(height, top, bottom, kernel_h, dilation_h, stride_h)
        out_w = window_positions(width, left, right, kernel_w, dilation_w, stride_w)
        place = _spread(batch * out_h * out_w, most)
        step_h, step_w = (v.reshape(-1, 1) for v in np.mgrid[:kernel_h, :kernel_w])
        row = place // out_w % out_h * stride_h - top + step_h * dilation_h
        column = place % out_w * stride_w - left + step_w * dilation_w
        # Few positions are looked at, so the image isn't padded for those that lie outside of it.
        near = image[place // (out_h * out_w), row.clip(0, height - 1), column.clip(0, width - 1)]
        if any(convolution.padding):
            near[(row < 0) | (row >= height) | (column < 0) | (column >= width)] = 0
        return np.asarray(near.transpose(2, 0, 1).reshape(self.groups, per_group * len(row), len(place)))

    def _split(self, rows: Array) -> Array:
        """Return [groups, rows, blocks, block_width] for [groups, rows, count]."""
        missing = self.blocks * self.block_width - self.count
        filled = np.pad(rows, ((0, 0), (0, 0), (0, missing)))
        return filled.reshape(*rows.shape[:2], self.blocks, self.block_width)


def _spread(count: int, most: int) -> Array:
    """Return some of so many numbers, spread evenly, at most so many."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


@dataclass
class Moments:
    """Sums over the rows that were seen.

    Attributes:
        count: how many rows.
        sums: of each column: [B,K] float64.
        products: of each two columns of a block: [B,K,K] float64.
    """

    count: int
    sums: Array
    products: Array

    @classmethod
    def none(cls, columns: Columns) -> Moments:
        """Return the moments of no rows."""
        blocks, width = columns.groups * columns.blocks, columns.block_width
        return cls(0, np.zeros((blocks, width)), np.zeros((blocks, width, width)))

    def add(self, seen: Array) -> None:
        """Take in what was seen of a group of batches, [B,K,positions] float32; see `SecondMoments`."""
        largest = np.maximum(seen.max(axis=2, initial=0), -seen.min(axis=2, initial=0))
        _, exponents = np.frexp(largest)
        whole = _scaled(seen, BITS - exponents)
        np.rint(whole, out=whole)
        unit = np.ldexp(1.0, exponents - BITS)
        self.count += seen.shape[2]
        self.sums += whole.sum(axis=2).astype("float64") * unit
        products = np.multiply(whole @ whole.transpose(0, 2, 1), unit[:, :, None], dtype="float64")
        products *= unit[:, None, :]
        self.products += products

    def merge(self, other: Moments) -> None:
        """Take in what others have seen."""
        self.count += other.count
        self.sums += other.sums
        self.products += other.products

    @property
    def means(self) -> Array:
        """The columns' means: [B,K]."""
        return self.sums / max(self.count, 1)

    def about(self, center: Array) -> Array:
        """Return the mean products of the columns' differences from a center [B,K]: [B,K,K]."""
        shift = center[:, :, None] * self.means[:, None, :]
        product = center[:, :, None] * center[:, None, :]
        return np.asarray(self.products / max(self.count, 1) - shift - shift.transpose(0, 2, 1) + product)


def _scaled(values: Array, exponents: Array) -> Array:
    """Return values [B,K,positions] float32 times powers of two, one for each [B,K]."""
    # Float32 has no powers above 127, which values below its smallest normal one need.
    first = np.minimum(exponents, 126)
    scaled = values * np.ldexp(np.float32(1), first)[:, :, None]
    if (first < exponents).any():
        scaled *= np.ldexp(np.float32(1), exponents - first)[:, :, None]
    return np.asarray(scaled)


class SecondMoments(Statistic):
    """The first and second moments of a layer's columns, of batches to learn from and of those held back.

    Rows are added to the moments group by group. Values are rounded to `BITS` bits of each column's largest in the
    group, so that a group's sums of products are exact, and the same on any number of threads.
    """

    def __init__(self, columns: Columns, first: int = 0) -> None:
        super().__init__(first)
        self._columns = columns
        self._moments = {held_back: Moments.none(columns) for held_back in (False, True)}
        self._gathered: dict[bool, list[Array]] = {held_back: [] for held_back in (False, True)}

    @property
    def learned_from(self) -> Moments:
        """Of batches to learn from. Nothing may be added after this."""
        return self._complete(held_back=False)

    @property
    def held_back(self) -> Moments:
        """Of the others."""
        return self._complete(held_back=True)

    def _add(self, values: Array) -> None:
        number = self.batches
        if number < ALL_UNTIL or number % EVERY in (0, HELD_BACK_EVERY - 1):
            self._gathered[is_held_back(number)].append(self._columns.seen(values))

    def _advance(self, batches: int) -> None:
        super()._advance(batches)
        length = GROUP if batches <= ALL_UNTIL else LATER_GROUP
        # A part that hasn't seen the whole of a group leaves it to the one that it is merged into.
        if batches % length == 0 and batches - length >= self.first:
            self.learned_from, self.held_back  # noqa: B018 - completes both

    def _take(self, other: SecondMoments) -> None:
        for held_back in (False, True):
            self._moments[held_back].merge(other._moments[held_back])
            self._gathered[held_back] += other._gathered[held_back]

    def _complete(self, held_back: bool) -> Moments:
        """Return the moments, with all rows that were gathered."""
        gathered = self._gathered[held_back]
        if gathered:
            self._moments[held_back].add(np.concatenate(gathered, axis=2))
            gathered.clear()
        return self._moments[held_back]

    def _own_state(self) -> dict[str, Array]:
        found = {}
        for held_back, name in ((False, "learned_from"), (True, "held_back")):
            moments, gathered = self._moments[held_back], self._gathered[held_back]
            if moments.count:
                found[f"{name} count"] = np.array(moments.count)
                found[f"{name} sums"], found[f"{name} products"] = moments.sums, moments.products
            if gathered:
                found[f"{name} rows"] = np.concatenate(gathered, axis=2)
        return found

    def _restore_own(self, state: Mapping[str, Array]) -> None:
        for held_back, name in ((False, "learned_from"), (True, "held_back")):
            moments = Moments.none(self._columns)
            if f"{name} count" in state:
                moments.merge(Moments(int(state[f"{name} count"]), state[f"{name} sums"], state[f"{name} products"]))
            self._moments[held_back] = moments
            self._gathered[held_back] = [state[f"{name} rows"]] if f"{name} rows" in state else []
