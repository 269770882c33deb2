"""Compression of small constants: what a library stores of them, and expands when it is loaded (`expand.c`).

An *area* is a run of constants of one dtype. It is cut into granules of `GRANULE` bytes, and a granule that has been
there before is a reference to that: a token of how many granules it is behind, plus one. A token of 0 stands for a new
granule, or for one whose bytes take fewer bits than a reference. (Depthwise kernels want a channel's constants several
times, at the same places in a vector.) Tokens and new granules are bytes, coded by asymmetric numeral systems (J. Duda,
"Asymmetric numeral systems", 2013, arXiv:1311.2540; the interleaving of states is F. Giesen's, "Interleaved entropy
coders", 2014, arXiv:1402.3392). Frequencies are those of the bytes at the same place in an element, so that exponents,
zeros and the like cost next to nothing.

A granule that is an order of the numbers below 16 in pairs is coded as a number (`pipeline.matchings`), with a
token of its own: numbers are chosen small, and take fewer bits than a reference. That token has no bit in its high
byte, as tokens of most other granules, so that one byte alone says which granules are orders.

int16 constants whose values are those of int8 are coded as int8. Of int32 and float32, the differences from the values
before are coded where that takes fewer bytes: a layer's biases and multipliers are near each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.matchings import are_matchings, numbers_of

Array = npt.NDArray[Any]

GRANULE = 16
"""Bytes that are referred to as a whole."""

STATES = 64
"""Interleaved states of the coder, each of which codes every 64th byte."""

FREQUENCY_BITS = 11
"""Frequencies of a table sum up to 2**11."""

WORD_BITS = 16
"""What a state gives to the stream, or takes from it, at a time; states are at least 2**16."""

NUMBERED = 1
"""The token of a granule that is coded as a number."""

FARTHEST = (1 << 16) - 1 - NUMBERED
"""Granules to the farthest one that a token refers to."""

NUMBER_BYTES = 4
"""Bytes of a granule's number, the lowest one first."""

DIFFERENCES = {"int32": -1, "float32": ~0xFF}
"""Which bits of each dtype's values are coded as differences; multipliers' last eight bits are mostly zeros."""

CHOICES = 4
"""How often references are weighed against new granules, by the frequencies that the last choice has led to."""

_LONG = 0x80
"""Flag of the first of two bytes of a frequency."""


@dataclass(frozen=True)
class Symbols:
    """Bytes that are coded with tables of frequencies of their own.

    Attributes:
        rows: [rows, STATES] uint8.
        tables: frequencies, [period, 256]; a byte's is the one of its column modulo the period.
    """

    rows: Array
    tables: Array

    @classmethod
    def of(cls, symbols: Array, period: int) -> Symbols:
        """Count symbols, after zeros to a multiple of `STATES`."""
        rows = np.pad(symbols, (0, -len(symbols) % STATES)).reshape(-1, STATES)
        return cls(rows, np.stack([_frequencies(rows[:, first::period]) for first in range(period)]))

    @property
    def contexts(self) -> Array:
        """The table of each column."""
        return np.arange(STATES) % len(self.tables)

    def frequencies(self) -> Array:
        """Return each symbol's frequency: [rows, STATES]."""
        return np.asarray(self.tables[self.contexts, self.rows])

    def starts(self) -> Array:
        """Return the sum of the frequencies of smaller symbols, for each symbol: [rows, STATES]."""
        return np.asarray((np.cumsum(self.tables, axis=1) - self.tables)[self.contexts, self.rows])

    def coded_bytes(self) -> float:
        """Return about how many bytes the symbols take, without tables."""
        return float((FREQUENCY_BITS - np.log2(self.frequencies())).sum()) / 8


@dataclass(frozen=True)
class Area:
    """An area, as the decoder wants to know it.

    Attributes:
        size: bytes.
        widened: whether values of one byte become int16.
        differences: which bits of values of four bytes are differences from those before: the highest ones, or none.
        literals: bytes of new granules, except for those that are numbers.
        numbered: bytes of numbers.
        tokens, granules, numbers: symbols of tokens, low and high bytes by turns, of new granules, and of numbers.
    """

    size: int
    widened: bool
    differences: int
    literals: int
    numbered: int
    tokens: Symbols
    granules: Symbols
    numbers: Symbols

    @classmethod
    def of(cls, data: bytes, dtype: str) -> Area:
        """Cut an area into symbols.

        Args:
            data: the area, a multiple of `GRANULE` bytes.
            dtype: of its values; those of int16 must be those of int8.
        """
        values = np.frombuffer(data, dtype)
        widened = dtype == "int16"
        bytes_ = (values.astype("int8") if widened else values).view("uint8")
        granules = bytes_.reshape(len(data) // GRANULE, -1)
        tokens = _references(granules)
        if dtype == "uint8":
            tokens = np.where(are_matchings(granules), NUMBERED, tokens)
        if dtype not in DIFFERENCES:
            tokens = _cheapest(tokens, granules, _period(dtype))
        literals = granules[tokens == 0].reshape(-1)
        numbers = numbers_of(granules[tokens == NUMBERED]).astype("<u4").view("uint8")
        differences, coded_literals = 0, Symbols.of(literals, _period(dtype))
        if dtype in DIFFERENCES:
            other = Symbols.of(_differences(literals, DIFFERENCES[dtype]), _period(dtype))
            if other.coded_bytes() < coded_literals.coded_bytes():
                differences, coded_literals = DIFFERENCES[dtype], other
        coded_tokens = Symbols.of(_bytes_of(tokens), 2)
        coded = coded_tokens, coded_literals, Symbols.of(numbers, NUMBER_BYTES)
        return cls(len(data), widened, differences, literals.size, numbers.size, *coded)

    @property
    def symbols(self) -> tuple[Symbols, ...]:
        """All symbols, in the order in which they are coded; numbers only if there are any."""
        return self.tokens, self.granules, *((self.numbers,) if self.numbered > 0 else ())

    @property
    def scratch(self) -> int:
        """Bytes that expanding takes behind the area."""
        return STATES + self.tokens.rows.size + self.numbers.rows.size

    def coded_bytes(self) -> float:
        """Return about how many bytes the area takes."""
        return sum(symbols.coded_bytes() for symbols in self.symbols)


def _period(dtype: str) -> int:
    """Return how many tables the bytes of a dtype's new granules take turns with."""
    return {"int16": 1, "uint8": GRANULE}.get(dtype, 4)


def _differences(literals: Array, mask: int) -> Array:
    """Return values with their bits in `mask` as differences from those before, whose lowest bit there is the sign."""
    values, kept = literals.view("<u4"), np.uint32(mask & 0xFFFFFFFF)
    high = values & kept
    changes = high - np.concatenate([np.zeros(min(1, len(high)), "uint32"), high[:-1]])
    signs = (changes.view("int32") >> 31).view("uint32")
    coded = ((changes << np.uint32(1)) ^ signs) & kept | values & ~kept
    return np.asarray(coded.astype("<u4").view("uint8"))


def _references(granules: Array) -> Array:
    """Return tokens that refer to the last granule that is equal; 0 if none is, or it is too far away."""
    number, last = np.arange(len(granules)), np.full(len(granules), -1)
    # Equal ones one behind the other, and otherwise in any order.
    words = np.ascontiguousarray(granules).view("<u8")
    order = np.lexsort(words.T)
    again = (words[order][1:] == words[order][:-1]).all(axis=1)
    last[order[1:][again]] = order[:-1][again]
    return np.where((last >= 0) & (number - last <= FARTHEST), number - last + NUMBERED, 0)


def _cheapest(tokens: Array, granules: Array, period: int) -> Array:
    """Return tokens that say new where a granule's own bytes take fewer bits than a reference, as mostly zeros do.

    What a granule takes depends on how the others are coded, so that two beginnings are tried: all that can be
    references are, and none is.
    """
    if not (tokens > NUMBERED).any():
        return tokens
    places, numbered = np.arange(granules.shape[1]) % period, tokens == NUMBERED
    results, bits = [], []
    for result in (tokens, np.where(numbered, NUMBERED, 0)):
        for _ in range(CHOICES):
            low, high = (_bits(each) for each in _bytes_of(result).reshape(-1, 2).T)
            tables = np.stack([_bits(granules[result == 0][:, first::period]) for first in range(period)])
            new = tables[places, granules].sum(axis=1) + low[0] + high[0]
            result = np.where(~numbered & (new < low[tokens & 0xFF] + high[tokens >> 8]), 0, tokens)
        symbols = Symbols.of(_bytes_of(result), 2), Symbols.of(granules[result == 0].reshape(-1), period)
        results.append(result)
        bits.append(sum(each.coded_bytes() for each in symbols))
    return results[int(np.argmin(bits))]


def _bytes_of(tokens: Array) -> Array:
    """Return tokens as bytes, the low one first."""
    return tokens.astype("<u2").view("uint8")


def _bits(symbols: Array) -> Array:
    """Return about how many bits each byte takes, if they are as frequent as in `symbols`: [256]."""
    counts = np.bincount(symbols.reshape(-1), minlength=256) + 0.1
    return np.asarray(np.log2(counts.sum()) - np.log2(counts))


def encode(areas: Sequence[Area]) -> tuple[bytes, bytes, bytes]:
    """Return the states with which decoding areas begins, the stream's words, and tables of frequencies."""
    symbols = [each for area in areas for each in area.symbols]
    tables = b"".join(_table_bytes(table) for each in symbols for table in each.tables)
    none = [np.zeros((0, STATES), "uint64")]
    frequencies = np.concatenate([*none, *(each.frequencies().astype("uint64") for each in symbols)])
    starts = np.concatenate([*none, *(each.starts().astype("uint64") for each in symbols)])
    states, words = _states_and_words(frequencies, starts)
    return states.astype("<u4").tobytes(), words.astype("<u2").tobytes(), tables


def _frequencies(symbols: Array) -> Array:
    """Return how often each byte occurs, of 2**FREQUENCY_BITS, and never 0 for one that does: [256]."""
    counts = np.bincount(symbols.reshape(-1), minlength=256)
    total = 1 << FREQUENCY_BITS
    frequencies = np.where(counts > 0, np.maximum(counts * total // max(counts.sum(), 1), 1), 0)
    while (missing := total - frequencies.sum()) != 0:
        largest = frequencies.argmax()
        frequencies[largest] += max(missing, -(frequencies[largest] // 2))
    return np.asarray(frequencies)


def _table_bytes(frequencies: Array) -> bytes:
    """Return a table: frequencies of one or two bytes, and runs of zeros as a zero and their length minus one."""
    result, zeros = bytearray(), 0
    for frequency in [*frequencies.tolist(), None]:
        if frequency == 0:
            zeros += 1
            continue
        if zeros:
            result += bytes([0, zeros - 1])
            zeros = 0
        if frequency is not None:
            high, low = divmod(frequency, 256)
            result += bytes([frequency]) if frequency < _LONG else bytes([_LONG | high, low])
    return bytes(result)


def _states_and_words(frequencies: Array, starts: Array) -> tuple[Array, Array]:
    """Encode rows of `STATES` symbols, from the last to the first, so that the decoder gets them in their order."""
    bits, shift = np.uint64(FREQUENCY_BITS), np.uint64(WORD_BITS)
    limits = frequencies << (shift + shift - bits)
    states = np.full(STATES, 1 << WORD_BITS, "uint64")
    words = [np.zeros(0, "uint16")]
    for row in range(len(frequencies) - 1, -1, -1):
        full = states >= limits[row]
        words.append(states[full].astype("uint16"))
        states = np.where(full, states >> shift, states)
        quotient, rest = np.divmod(states, frequencies[row])
        states = (quotient << bits) + rest + starts[row]
    return states, np.concatenate(words[::-1])
