"""Which inputs are multiplied together, where an instruction adds two products of bytes in 16 bits, and saturates.

Such an instruction is exact for two weights whose sum is at most `LARGEST_SUM` in magnitude, whatever the activations
are; weights of different signs always are. Which two inputs meet is free: a *window* of 16 neighbouring inputs can be
put into any order. So inputs are vertices of a graph, with an edge between those that may meet in every lane of a
block, and pairs are a matching in it. Weights of real networks have perfect matchings nearly everywhere. Inputs that
find no partner are paired with each other nevertheless: of the second one's weight, each lane takes as much as the sum
allows, and the remainder, which is zero in most lanes, goes to an *extra* step, where the input stands once more.

Of all perfect matchings of a window, the first one of a fixed sequence is taken (`matchings`), as far as that is
searched. A library then has an order compressed to its number (`library.compression`), which mostly takes little more
than a byte. Windows that have none there are matched greedily: the input with the fewest possible partners left chooses
first, and takes the one that has the fewest itself (R. M. Karp and M. Sipser, "Maximum matchings in sparse random
graphs", 1981; there, only inputs with one partner left have precedence), several times, with ties decided otherwise.
Where that finds no perfect matching, the first one of the sequence that misses as few pairs is taken, if there is one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.matchings import INPUTS, orders

Array = npt.NDArray[Any]

WINDOW = INPUTS
"""Inputs in a window: what a shuffle of bytes takes in."""

STEP = 4
"""Inputs, and so two pairs, in a step."""

LARGEST_SUM = 128
"""Of two weights: 255 times as much is less than 2**15."""

EXTRA_INPUTS = STEP // 2
"""Inputs in an extra step, each alone in a pair."""

EXTRA_STEPS, EXTRA_STEPS_OF_ALL = 4, 32
"""Blocks have a multiple of so many extra steps, of which the last ones may be empty; where there are few blocks, of so
many that those of all blocks are about the second number. Layers of equal sizes then mostly have the same kernel.
"""

SEARCHED = 1 << 15
"""Matchings of the sequence that are tried."""

MOST_TOGETHER = 1024
"""Of them, tried at a time."""

ATTEMPTS = 8
"""At finding another perfect matching, or the largest one."""

_NONE = -1

_BITS = np.array([bin(i).count("1") for i in range(1 << 8)], "uint8")

_ALL = (1 << WINDOW) - 1

_PAIR = np.zeros((WINDOW, WINDOW), "int64")
"""Numbers of pairs of inputs, by the lower and the higher one."""
_PAIR[np.triu_indices(WINDOW, 1)] = np.arange(WINDOW * (WINDOW - 1) // 2)

_PAIRS_PER_WORD = 60
"""Pairs whose bits are in one integer."""


@dataclass(frozen=True)
class Pairing:
    """The order of inputs in the steps of some blocks.

    Attributes:
        order: [blocks, windows, WINDOW] uint8, which input of a window stands in each place.
        extra_windows: [blocks, extra] int, which window each extra step takes its inputs from.
        extra_places: [blocks, extra, EXTRA_INPUTS] int, where the inputs of each extra step stand in their windows;
            each is the first one of a pair there, beside nothing.
        extra_used: the same shape, bool, whether there is an input.
    """

    order: Array
    extra_windows: Array
    extra_places: Array
    extra_used: Array

    @property
    def extra(self) -> int:
        """Number of extra steps in each block, empty ones included."""
        return int(self.extra_windows.shape[1])

    @property
    def used_extra(self) -> Array:
        """Number of extra steps that aren't empty, which are the first ones: [blocks] int."""
        return np.asarray(self.extra_used.any(axis=-1).sum(axis=-1))

    @property
    def extra_order(self) -> Array:
        """Which input of a window stands in each place of an extra step: [blocks, extra, STEP] uint8."""
        blocks = np.arange(len(self.order))[:, np.newaxis, np.newaxis]
        inputs = self.order[blocks, self.extra_windows[..., np.newaxis], self.extra_places] * self.extra_used
        return np.asarray(np.stack([inputs, np.zeros_like(inputs)], axis=-1).reshape(*inputs.shape[:2], STEP))


def pair(weights: Array) -> Pairing:
    """Return how inputs are paired.

    Args:
        weights: [blocks, lanes, windows, WINDOW] int8; all lanes of a block share an order.
    """
    blocks, lanes, windows, _ = weights.shape
    flat = weights.transpose(0, 2, 3, 1).reshape(blocks * windows, WINDOW, lanes)
    edges = _edges(flat)
    partner = _matching(edges)
    inputs = np.arange(WINDOW)
    first = np.argsort(partner < inputs, axis=-1, kind="stable")[:, : WINDOW // 2]
    second = np.take_along_axis(partner, first, axis=-1)
    order = np.stack([first, second], axis=-1).reshape(blocks, windows, WINDOW).astype("uint8")
    met = np.take_along_axis(edges, first, axis=-1) >> second.astype("uint16") & 1
    steps: list[list[tuple[int, list[int]]]] = [[] for _ in range(blocks)]
    for block, window in np.argwhere((met == 0).any(axis=-1).reshape(blocks, windows)):
        places = np.flatnonzero(met[block * windows + window] == 0) * 2 + 1
        for start in range(0, len(places), EXTRA_INPUTS):
            steps[block].append((int(window), places[start : start + EXTRA_INPUTS].tolist()))
    multiple = max(EXTRA_STEPS, EXTRA_STEPS_OF_ALL // blocks)
    extra = -(-max(len(each) for each in steps) // multiple) * multiple
    extra_windows = np.zeros((blocks, extra), "int64")
    extra_places = np.zeros((blocks, extra, EXTRA_INPUTS), "int64")
    extra_used = np.zeros((blocks, extra, EXTRA_INPUTS), bool)
    for block, each in enumerate(steps):
        for i, (window, taken) in enumerate(each):
            extra_windows[block, i] = window
            extra_places[block, i, : len(taken)], extra_used[block, i, : len(taken)] = taken, True
    return Pairing(order, extra_windows, extra_places, extra_used)


def arrange(weights: Array, pairing: Pairing) -> tuple[Array, Array]:
    """Return weights in their order, and those of extra steps.

    Args:
        weights: those of `pair`.
        pairing: what it has returned.

    Returns:
        [blocks, lanes, windows, WINDOW] int8 and [blocks, lanes, extra, STEP] int8.
    """
    order = pairing.order[:, np.newaxis].astype("int64")
    ordered = np.take_along_axis(weights, order, axis=-1).astype("int16")
    first, second = ordered[..., 0::2], ordered[..., 1::2]
    too_much = np.abs(first + second) - LARGEST_SUM
    remainder = np.where(too_much > 0, np.sign(second) * too_much, 0)
    ordered[..., 1::2] -= remainder
    blocks = np.arange(len(weights))[:, np.newaxis, np.newaxis]
    moved = remainder[blocks, :, pairing.extra_windows[..., np.newaxis], pairing.extra_places // 2]
    moved = (moved * pairing.extra_used[..., np.newaxis]).transpose(0, 3, 1, 2)
    extra = np.stack([moved, np.zeros_like(moved)], axis=-1).reshape(*moved.shape[:3], STEP)
    return ordered.astype("int8"), extra.astype("int8")


def _edges(weights: Array) -> Array:
    """Return which inputs may meet, as bits: [n, WINDOW] uint16 of [n, WINDOW, lanes] int8."""
    wide = weights.astype("int16")
    edges = np.zeros(weights.shape[:2], "uint16")
    for distance in range(1, WINDOW):
        sums = wide[:, :-distance] + wide[:, distance:]
        met = (np.abs(sums) <= LARGEST_SUM).all(axis=-1)
        for i in range(WINDOW - distance):
            edges[:, i] |= met[:, i].astype("uint16") << np.uint16(i + distance)
            edges[:, i + distance] |= met[:, i].astype("uint16") << np.uint16(i)
    return edges


def _matching(edges: Array) -> Array:
    """Return each input's partner, which it may not meet if there are no others: [n, WINDOW] int8."""
    partner = _first(edges)
    unsolved = np.flatnonzero((partner == _NONE).any(axis=1))
    for attempt in range(ATTEMPTS):
        found = _greedy(edges[unsolved], attempt)
        better = (found != _NONE).sum(axis=1) > (partner[unsolved] != _NONE).sum(axis=1)
        partner[unsolved[better]] = found[better]
        unsolved = unsolved[(partner[unsolved] == _NONE).any(axis=1)]
    missing = (partner[unsolved] == _NONE).sum(axis=1) // 2
    for count in np.unique(missing):
        rows = unsolved[missing == count]
        found = _first(edges[rows], count)
        partner[rows] = np.where(found == _NONE, partner[rows], found)
    return _completed(partner)


def _completed(partner: Array) -> Array:
    """Pair inputs that have no partner with each other, in their order: [n, WINDOW] int8."""
    partner = partner.copy()
    for row in np.flatnonzero((partner == _NONE).any(axis=1)):
        first, second = np.flatnonzero(partner[row] == _NONE).reshape(-1, 2).T
        partner[row, first], partner[row, second] = second, first
    return partner


def _first(edges: Array, missed: int = 0) -> Array:
    """Return each input's partner in the sequence's first matching that fits: [n, WINDOW] int8, or -1 if none does.

    Args:
        edges: [n, WINDOW] uint16.
        missed: how many pairs may be none of the edges.
    """
    matchings, pairs = _searched()
    missing = np.zeros((len(edges), pairs.shape[1]), "uint64")
    for first, second in zip(*np.triu_indices(WINDOW, 1), strict=True):
        met = edges[:, first] >> np.uint16(second) & np.uint16(1)
        word, bit = divmod(int(_PAIR[first, second]), _PAIRS_PER_WORD)
        missing[:, word] |= (met ^ 1).astype("uint64") << np.uint64(bit)
    partner, searched = np.full((len(edges), WINDOW), _NONE, "int8"), np.arange(len(edges))
    start, stop = 0, 16
    while start < SEARCHED and len(searched) > 0:
        left = missing[searched, np.newaxis] & pairs[start:stop]
        fits = (left == 0).all(axis=-1) if missed == 0 else _count_bits(left).sum(axis=-1) <= missed
        found = np.asarray(fits.any(axis=1))
        order = matchings[start + fits[found].argmax(axis=1)]
        row = searched[found, np.newaxis]
        partner[row, order[:, 0::2]], partner[row, order[:, 1::2]] = order[:, 1::2], order[:, 0::2]
        searched = searched[~found]
        start, stop = stop, min(2 * stop, stop + MOST_TOGETHER)
    return partner


def _count_bits(words: Array) -> Array:
    """Return how many bits of each uint64 are set."""
    return np.asarray(_BITS[words[..., np.newaxis].view("uint8")].sum(axis=-1))


@functools.cache
def _searched() -> tuple[Array, Array]:
    """Return the matchings that are tried, and their pairs as bits: [SEARCHED, WINDOW] uint8, [SEARCHED, 2] uint64."""
    order = orders(np.arange(SEARCHED))
    words, bits = np.divmod(_PAIR[order[:, 0::2], order[:, 1::2]], _PAIRS_PER_WORD)
    masks = np.uint64(1) << bits.astype("uint64")
    return order, np.stack([np.where(words == word, masks, 0).sum(axis=1) for word in range(2)], axis=1)


def _greedy(edges: Array, attempt: int) -> Array:
    """Match as the module's docstring says; attempts decide ties by different orders of the inputs."""
    n, bits = len(edges), np.uint16(1) << np.arange(WINDOW, dtype="uint16")
    rank = (np.arange(WINDOW) * (2 * attempt + 1) + attempt) % WINDOW
    partner, free, rows = np.full((n, WINDOW), _NONE, "int8"), np.full(n, _ALL, "uint16"), np.arange(n)
    for _ in range(WINDOW // 2):
        left = edges & free[:, np.newaxis]
        degree = _BITS[left & 0xFF].astype("int16") + _BITS[left >> 8]
        cost = degree * WINDOW + rank
        cost[(degree == 0) | ((free[:, np.newaxis] & bits) == 0)] = np.iinfo("int16").max
        chooser = cost.argmin(axis=1)
        possible = (left[rows, chooser, np.newaxis] & bits) != 0
        chosen = np.where(possible, cost, np.iinfo("int16").max).argmin(axis=1)
        met = possible.any(axis=1) & (cost[rows, chooser] < np.iinfo("int16").max)
        at, one, other = rows[met], chooser[met], chosen[met]
        partner[at, one], partner[at, other] = other, one
        free[at] &= ~(bits[one] | bits[other])
    return partner
