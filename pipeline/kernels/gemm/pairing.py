"""Which inputs are multiplied together, where an instruction adds two products of bytes in 16 bits, and saturates.

Such an instruction is exact for two weights whose sum is at most `LARGEST_SUM` in magnitude, whatever the activations
are; weights of different signs always are. Which two inputs meet is free: a *window* of 16 neighbouring inputs can be
put into any order. So inputs are vertices of a graph, with an edge between those that may meet in every lane of a
block, and pairs are a matching in it. Weights of real networks have perfect matchings nearly everywhere. An input that
finds no partner is alone in its pair, and what then doesn't fit the window's eight pairs goes to *extra* steps.

A few hundred matchings are tried first, always in the same order (`_known_matchings`): as most windows so have one of
few orders, a library has these compressed to a byte or less. Windows that none of them suits are matched greedily: the
input with the fewest possible partners left chooses first, and takes the one that has the
fewest itself (R. M. Karp and M. Sipser, "Maximum matchings in sparse random graphs", 1981; there, only inputs with one
partner left have precedence). Windows that then have no perfect matching are tried again, with ties decided otherwise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WINDOW = 16
"""Inputs in a window: what a shuffle of bytes takes in."""

STEP = 4
"""Inputs, and so two pairs, in a step."""

LARGEST_SUM = 128
"""Of two weights: 255 times as much is less than 2**15."""

ATTEMPTS = 8
"""At finding a perfect matching."""

_NONE = -1

_BITS = np.array([bin(i).count("1") for i in range(1 << 8)], "uint8")

_ALL = (1 << WINDOW) - 1


@dataclass(frozen=True)
class Pairing:
    """The order of inputs in the steps of some blocks.

    Attributes:
        order: [blocks, windows, WINDOW] uint8, which input of a window stands in each place.
        used: [blocks, windows, WINDOW] bool, whether it counts there; some that are alone in a pair stand beside an
            input that counts elsewhere.
        extra_windows: [blocks, extra] int, which window each extra step takes its inputs from.
        extra_order, extra_used: the same as `order` and `used` of extra steps, [blocks, extra, STEP].
    """

    order: Array
    used: Array
    extra_windows: Array
    extra_order: Array
    extra_used: Array

    @property
    def extra(self) -> int:
        """Number of extra steps in each block."""
        return int(self.extra_windows.shape[1])


def pair(weights: Array) -> Pairing:
    """Return how inputs are paired.

    Args:
        weights: [blocks, lanes, windows, WINDOW] int8; all lanes of a block share an order.
    """
    blocks, lanes, windows, _ = weights.shape
    flat = weights.transpose(0, 2, 3, 1).reshape(blocks * windows, WINDOW, lanes)
    partner = _matching(_edges(flat)).reshape(blocks, windows, WINDOW)
    order = np.empty((blocks, windows, WINDOW), "uint8")
    used = np.ones((blocks, windows, WINDOW), bool)
    inputs = np.arange(WINDOW)
    # The first one of each pair, and those that are alone, in their order; each with its partner, or itself, beside it.
    leads = (partner == _NONE) | (partner > inputs)
    perfect = leads.sum(axis=-1) == WINDOW // 2
    first = np.argsort(~leads[perfect], axis=-1, kind="stable")[:, : WINDOW // 2]
    order[perfect] = np.stack([first, np.take_along_axis(partner[perfect], first, axis=-1)], axis=-1).reshape(
        -1, WINDOW
    )
    extras: list[list[tuple[int, list[int], list[bool]]]] = [[] for _ in range(blocks)]
    for block, window in np.argwhere(~perfect):
        mates = partner[block, window]
        pairs = [(int(i), int(mates[i])) for i in np.flatnonzero(leads[block, window])]
        # Whole pairs first, so that it's single inputs that are left over.
        pairs.sort(key=lambda two: two[1] == _NONE)
        places = [place for i, mate in pairs for place in (i, i if mate == _NONE else mate)]
        counts = [count for _, mate in pairs for count in (True, mate != _NONE)]
        order[block, window], used[block, window] = places[:WINDOW], counts[:WINDOW]
        for start in range(WINDOW, len(places), STEP):
            missing = STEP - len(places[start : start + STEP])
            step = places[start : start + STEP] + [0] * missing, counts[start : start + STEP] + [False] * missing
            extras[block].append((int(window), *step))
    extra = max(len(steps) for steps in extras)
    padded = [steps + [(0, [0] * STEP, [False] * STEP)] * (extra - len(steps)) for steps in extras]
    return Pairing(
        order,
        used,
        np.array([[step[0] for step in steps] for steps in padded], "int64").reshape(blocks, extra),
        np.array([[step[1] for step in steps] for steps in padded], "uint8").reshape(blocks, extra, STEP),
        np.array([[step[2] for step in steps] for steps in padded], bool).reshape(blocks, extra, STEP),
    )


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
    """Return each input's partner, or -1: [n, WINDOW] int8."""
    partner = np.full(edges.shape, _NONE, "int8")
    unsolved = np.arange(len(edges))
    for known in _known_matchings():
        suits = (edges[unsolved] >> known & 1).all(axis=1)
        partner[unsolved[suits]] = known
        unsolved = unsolved[~suits]
    for attempt in range(ATTEMPTS):
        found = _greedy(edges[unsolved], attempt)
        better = (found != _NONE).sum(axis=1) > (partner[unsolved] != _NONE).sum(axis=1)
        partner[unsolved[better]] = found[better]
        unsolved = unsolved[(partner[unsolved] == _NONE).any(axis=1)]
    return partner


@functools.cache
def _known_matchings() -> tuple[Array, ...]:
    """Return each input's partner in perfect matchings: [WINDOW] uint16 each.

    Partners differ in the same bits, first of the inputs' own numbers, which gives disjoint matchings; then of their
    numbers multiplied modulo 17, which only puts these into other orders.
    """
    numbers = np.arange(WINDOW)
    matchings: dict[bytes, Array] = {}
    for factor in range(1, WINDOW + 1):
        renamed = (numbers + 1) * factor % (WINDOW + 1) - 1
        for bits in range(1, WINDOW):
            partner = np.argsort(renamed)[renamed ^ bits].astype("uint16")
            matchings.setdefault(partner.tobytes(), partner)
    return tuple(matchings.values())


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
