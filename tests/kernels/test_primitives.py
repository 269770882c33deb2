"""The contract of instruction sets: each primitive computes its meaning, `pipeline.kernels.isa.meaning`, exactly.

The instruction sets are whatever the package has: on this CPU, or where it lacks them emulated.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.ir.types import LARGEST_INT16
from pipeline.kernels.isa import Capability, InstructionSet, instruction_sets, meaning
from pipeline.kernels.isa.x86.amx import MatrixInstructionSet
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet
from pipeline.kernels.lib.vectors import joined, lanes_of, part, span
from pipeline.ops import QAdd
from tests.kernels.execution import Call
from tests.kernels.instruction_sets import runnable
from tests.kernels.tensors import SEEDS

Array = npt.NDArray[Any]

ROWS = 96
"""How many vectors of operands a primitive is tried on at once."""

NO_PRIMITIVES = {
    "blocks",
    "emit",
    "extending",
    "functions",
    "has",
    "iterations",
    "lineage",
    "release",
    "rounding_offset",
}
"""Methods of instruction sets that compute nothing by themselves."""


def primitives(isa: InstructionSet) -> set[str]:
    """Return the names of an instruction set's primitives, also of those that it only refuses."""
    methods = inspect.getmembers(isa, inspect.ismethod)
    return {name for name, _ in methods if not name.startswith("_")} - NO_PRIMITIVES


@dataclass(frozen=True)
class Trial:
    """A primitive on many random operands.

    Attributes:
        primitive: its name.
        call: a function that applies it to all operands, and these.
        allowed: what may come out: one value for each element, or where several are right, all of them.
    """

    primitive: str
    call: Call
    allowed: tuple[Array, ...]

    def check(self, result: Array) -> None:
        right = np.any([result == values.reshape(-1) for values in self.allowed], axis=0)
        shown = [values.reshape(-1)[~right][:8] for values in self.allowed]
        assert right.all(), f"{self.primitive}: {result[~right][:8]} in place of {shown}"


def trial(
    primitive: str,
    apply: Callable[..., Any],
    operands: Sequence[Array],
    *allowed: Array,
    functions: AbstractContextManager[Any] | None = None,
) -> Trial:
    """Return the trial of a primitive on one row of each operand after another, [ROWS, lanes]."""
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        inputs = [T.arg(f"x{i}", T.buffer((x.size,), str(x.dtype))) for i, x in enumerate(operands)]
        output = T.arg("y", T.buffer((allowed[0].size,), str(allowed[0].dtype)))
        with functions or nullcontext(), T.serial(ROWS) as row:
            vectors = [b[span(row * x.shape[1], x.shape[1])] for b, x in zip(inputs, operands, strict=True)]
            result = apply(*vectors)
            T.buffer_store(output, result, [span(row * allowed[0].shape[1], lanes_of(result))])
    results = np.zeros(allowed[0].size, allowed[0].dtype)
    return Trial(
        primitive, Call(builder.get(), (*(np.ascontiguousarray(x).reshape(-1) for x in operands), results)), allowed
    )


def numbers(
    random: np.random.Generator, dtype: str, lanes: int, low: int | None = None, high: int | None = None
) -> Array:
    """Return [ROWS, lanes] integers from `low` to `high`, which are likely; a row of nothing else for each of them."""
    limits = np.iinfo(dtype)
    low, high = limits.min if low is None else low, limits.max if high is None else high
    values = random.integers(low, high, (ROWS, lanes), endpoint=True)
    extreme = random.choice([low, low + 1, 0, 1, high - 1, high], (ROWS, lanes))
    values = np.where(random.random((ROWS, lanes)) < 0.3, np.clip(extreme, low, high), values)
    values[0], values[1] = low, high
    # So that each operand's extremes also meet the others'.
    return random.permutation(values).astype(dtype)


def accumulators(random: np.random.Generator, products: Array) -> Array:
    """Return int32 values that the sums of some products may be added to, in any order: all of them, if all fit."""
    limit, room = 2**31 - 1, np.abs(products.astype("int64")).sum(axis=-1)
    drawn = numbers(random, "int32", products.shape[1]).astype("int64")
    return np.clip(drawn, room - limit, limit - room).astype("int32")


def bounds(random: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Yield zero points, least and largest results."""
    yield from ((0, 0, 255), (128, 0, 255), (255, 3, 250), (1, 7, 7), (0, 255, 255))
    low, high = sorted(int(v) for v in random.integers(0, 256, 2))
    yield int(random.integers(0, 256)), low, high


def activations(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    for lanes in (1, isa.dot_depth, 4 * isa.lanes):
        values = numbers(random, "uint8", lanes)
        expected = meaning.activations(values, isa.activation_offset).astype(isa.activation_dtype)
        yield trial("activations", isa.activations, [values], expected)


def dot(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    activations = numbers(random, isa.activation_dtype, isa.dot_depth)
    weights = numbers(random, "int8", isa.lanes * isa.dot_depth).reshape(ROWS, isa.lanes, isa.dot_depth)
    acc = accumulators(random, activations[:, np.newaxis].astype("int64") * weights)
    operands = acc, activations, isa.arrange(weights.astype(isa.weight_dtype))
    yield trial("dot", isa.dot, operands, meaning.dot(acc, activations, weights))


def dot_int4(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    activations = numbers(random, "uint8", isa.dot_depth)
    weights = numbers(random, "int8", isa.lanes * isa.dot_depth, -8, 7)
    # What is subtracted from activations is in the bias of kernels.
    subtracted = meaning.activations(activations, isa.activation_offset)
    lanes = weights.reshape(ROWS, isa.lanes, isa.dot_depth)
    acc = accumulators(random, subtracted[:, np.newaxis].astype("int64") * lanes)
    yield trial("dot_int4", isa.dot_int4, (acc, activations, weights), meaning.dot_int4(acc, subtracted, lanes))


def dot_int16(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    activations = numbers(random, "int16", isa.int16_depth, -LARGEST_INT16, LARGEST_INT16)
    weights = numbers(random, "int8", isa.lanes * isa.int16_depth, -127, 127)
    lanes = weights.reshape(ROWS, isa.lanes, isa.int16_depth)
    acc = accumulators(random, activations[:, np.newaxis].astype("int64") * lanes)
    yield trial("dot_int16", isa.dot_int16, (acc, activations, weights), meaning.dot_int16(acc, activations, lanes))


def dot_lanes(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    dtypes = isa.activation_dtype, "int8"
    activations, weights = (numbers(random, dtype, isa.lanes * isa.dot_depth) for dtype in dtypes)
    lanes = [x.reshape(ROWS, isa.lanes, isa.dot_depth) for x in (activations, weights)]
    acc = accumulators(random, lanes[0].astype("int64") * lanes[1])
    operands = acc, activations, isa.arrange(lanes[1].astype(isa.weight_dtype))
    yield trial("dot_lanes", isa.dot_lanes, operands, meaning.dot_lanes(acc, *lanes))


def multiply_words(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    depth, words = isa.int16_depth, 2 * isa.lanes
    steps, sums = max(isa.load_bytes // 2 // depth, 1), words // depth
    acc, activations = numbers(random, "int32", sums), numbers(random, "int16", steps * depth)
    weights = numbers(random, "int16", words)
    for step in range(steps):

        def product(acc: Any, x: Any, w: Any, step: int = step) -> Any:
            vectors = [part(acc, first, isa.lanes) for first in range(0, sums, isa.lanes)]
            return joined(isa.multiply_words(vectors, x, step, w))

        expected = meaning.multiply_words(acc, activations, step, weights.reshape(ROWS, sums, depth))
        functions = isa.functions()
        yield trial("multiply_words", product, (acc, activations, weights), expected, functions=functions)


def multiply_block(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    if not isa.has(Capability.BLOCK_PRODUCTS):
        isa.sum_blocks([])  # Refused, before there is a block without channels.
    pixels, channels, depth = isa.block_pixels, isa.block_channels, isa.block_depth
    steps = isa.load_bytes // max(depth, 1)
    activations = numbers(random, isa.activation_dtype, pixels * steps * depth)
    weights = numbers(random, "int8", channels * depth, low=-127)
    shared = isa.lanes // max(pixels * channels, 1)
    start = np.zeros((ROWS, isa.lanes), "int32")
    start[:, ::shared] = numbers(random, "int32", pixels * channels, -(2**30), 2**30)
    started = start[:, ::shared].reshape(ROWS, pixels, channels)
    matrices = activations.reshape(ROWS, pixels, steps * depth), weights.reshape(ROWS, channels, depth)
    blocks = isa.lanes // channels
    sums = [numbers(random, "int32", isa.lanes, -(2**28), 2**28) for _ in range(blocks)]
    summed = meaning.sum_blocks([s.reshape(ROWS, pixels, channels, shared) for s in sums])
    for pixel in range(pixels):
        yield trial("sum_blocks", lambda *s, p=pixel: isa.sum_blocks(s)[p], sums, summed[:, pixel])
    # Where lanes share a sum, only all of them together say what it is.
    for step in range(steps):
        expected = meaning.multiply_block(started, matrices[0], step, matrices[1])
        added = meaning.sum_blocks([expected[..., np.newaxis]] * blocks)
        for pixel in range(pixels):

            def product(acc: Any, x: Any, w: Any, step: int = step, pixel: int = pixel) -> Any:
                vectors = [part(x, p * steps * depth, steps * depth) for p in range(pixels)]
                return isa.sum_blocks([isa.multiply_block(acc, vectors, step, w)] * blocks)[pixel]

            yield trial("multiply_block", product, (start, activations, weights), added[:, pixel])


def multiply_neighbours(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    if not isa.has(Capability.NEIGHBOUR_PRODUCTS):
        isa.multiply_neighbours(None, None, 0, None)
    pixels, channels, depth = isa.block_pixels, isa.block_channels, isa.block_depth
    activations = numbers(random, isa.activation_dtype, isa.load_bytes)
    weights = numbers(random, "int8", channels * depth)
    start = numbers(random, "int32", isa.lanes, -(2**30), 2**30)
    matrices = activations.reshape(ROWS, -1, depth), weights.reshape(ROWS, channels, depth)
    for first in range(0, matrices[0].shape[1], pixels):
        product = functools.partial(_neighbours, isa, first)
        expected = meaning.multiply_neighbours(start.reshape(ROWS, pixels, channels), matrices[0], first, matrices[1])
        yield trial("multiply_neighbours", product, (start, activations, weights), expected.reshape(ROWS, -1))


def _neighbours(isa: InstructionSet, first: int, acc: Any, activations: Any, weights: Any) -> Any:
    return isa.multiply_neighbours(acc, activations, first, weights)


def dot_even_lanes(isa: PairwiseInstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    activations, weights = (numbers(random, dtype, isa.lanes * 4) for dtype in ("uint8", "int8"))
    lanes = [x.reshape(ROWS, isa.lanes, 4) for x in (activations, weights)]
    acc = accumulators(random, lanes[0].astype("int64") * lanes[1])
    operands = acc, activations, isa.arrange(lanes[1].astype(isa.weight_dtype))
    yield trial("dot_even_lanes", isa.dot_even_lanes, operands, meaning.dot_even_lanes(acc, *lanes))


def dot_bytes(isa: PairwiseInstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    activations, weights = numbers(random, "uint8", 4), numbers(random, "int8", isa.lanes * 4).astype("int64")
    # As large as two weights may be together: 255 times 128 is an int16.
    first, second = weights[:, 0::2], weights[:, 1::2]
    weights[:, 1::2] = np.clip(second, -128 - np.minimum(first, 0), 128 - np.maximum(first, 0))
    fours = weights.astype("int8").reshape(ROWS, isa.lanes, 4)
    acc = accumulators(random, activations[:, np.newaxis].astype("int64") * fours)
    operands = acc, activations, fours.reshape(ROWS, -1)
    yield trial("dot_bytes", isa.dot_bytes, operands, meaning.dot_bytes(acc, activations, fours))


def shuffle(isa: PairwiseInstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    values, order = numbers(random, "uint8", isa.lanes * 4), numbers(random, "uint8", isa.lanes * 4, high=15)
    yield trial("shuffle", isa.shuffle, (values, order), meaning.shuffle(values, order))


def dot_pairs(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    left, right = numbers(random, "int16", 2 * isa.lanes), numbers(random, "int16", 2 * isa.lanes, low=1 - 2**15)
    acc = accumulators(random, (left.astype("int64") * right).reshape(ROWS, isa.lanes, 2))
    yield trial("dot_pairs", isa.dot_pairs, (acc, left, right), meaning.dot_pairs(acc, left, right))


def wide_products(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    left, right = (numbers(random, "int8", 4 * isa.lanes) for _ in range(2))
    yield trial(
        "wide_products", lambda a, b: joined(isa.wide_products(a, b)), (left, right), meaning.wide_products(left, right)
    )


def multiply_add(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    # Whole numbers: float64 has their product and its sum with a third exactly.
    acc, activation, weights = (
        numbers(random, "int64", lanes, -limit, limit).astype("float32")
        for lanes, limit in ((isa.lanes, 2**40), (1, 2**24), (isa.lanes, 2**24))
    )
    yield trial(
        "multiply_add", isa.multiply_add, (acc, activation, weights), *meaning.multiply_add(acc, activation, weights)
    )


def clipped(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    for lanes, (low, high) in zip(
        (isa.lanes, 4 * isa.lanes, 1, 3), ((0.0, None), (0.0, 6.0), (None, 6.0), (-1.5, 2.5)), strict=True
    ):
        values = numbers(random, "int32", lanes, -30, 30).astype("float32") / 4
        expected = meaning.clipped(values, low, high)
        yield trial("clipped", lambda v, b=(low, high): isa.clipped(v, *b), (values,), expected)


def ramp(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    special = np.array([-0.0, 0.0, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38], "float32")
    for lanes, limit in ((isa.lanes, 3.0), (4 * isa.lanes, 2.5), (1, 3.0), (3, 3.0)):
        near = random.choice([-limit, limit, limit + 1], (ROWS, lanes)).astype("float32")
        values = np.nextafter(near, random.standard_normal((ROWS, lanes)).astype("float32") * 9)
        values[::2] = random.standard_normal((ROWS, lanes))[::2] * 3
        values[:8] = special[:, np.newaxis]
        yield trial("ramp", lambda v, at=limit: isa.ramp(v, at), (values,), meaning.ramp(values, limit))


def rounded(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    for lanes in (isa.lanes, 4 * isa.lanes, 1, 3):
        halves = numbers(random, "int32", lanes, -600, 600).astype("float32") / 2
        large = random.uniform(-(2.0**31), 2.0**31 - 128, (ROWS, lanes)).astype("float32")
        neighbours = np.nextafter(halves, random.choice([np.float32(-np.inf), np.float32(np.inf)], (ROWS, lanes)))
        values = np.where(random.random((ROWS, lanes)) < 0.3, large, np.where(large > 0, halves, neighbours))
        yield trial("rounded", isa.rounded, (values,), meaning.rounded(values))


def saturate(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    shapes = [*([isa.lanes] * count for count in range(1, isa.saturate_vectors + 1)), [1], [3], [4 * isa.lanes]]
    # Each of the shapes twice, with other bounds.
    for lanes, (zero_point, low, high) in zip(shapes * 2, itertools.cycle(bounds(random)), strict=False):
        values = [numbers(random, "int32", n, high=2**31 - 1 - zero_point) for n in lanes]
        for value in values:
            value[: ROWS // 2] = random.integers(-300, 600, (ROWS // 2, value.shape[1]))
        expected = meaning.saturate(values, zero_point, low, high)
        yield trial("saturate", lambda *v, b=(zero_point, low, high): isa.saturate(v, *b), values, expected)


def quantized(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    shapes = [*([isa.lanes] * count for count in range(1, isa.saturate_vectors + 1)), [1], [3], [4 * isa.lanes]]
    dtypes = itertools.cycle(["uint8", "int8"])
    for lanes, dtype, limits in zip(shapes * 2, dtypes, itertools.cycle(bounds(random)), strict=False):
        halves = [numbers(random, "int32", n, -65000, 65000).astype("float32") / 2 for n in lanes]
        for value in halves:
            value[: ROWS // 2] = random.integers(-600, 1200, (ROWS // 2, value.shape[1])) / 2
        values = [np.where(random.random(v.shape) < 0.5, v, np.nextafter(v, np.float32(0))) for v in halves]
        expected = meaning.quantized(values, *limits, dtype)
        yield trial("quantized", lambda *v, b=(*limits, dtype): isa.quantized(v, *b), values, expected)
        number = isa.rounding_offset(limits[0], dtype)
        if number is not None:
            offset = np.full((ROWS, isa.lanes), number, "float32")
            operands = [*values, offset]
            yield trial(
                "quantized", lambda *v, b=(*limits, dtype): isa.quantized(v[:-1], *b, v[-1]), operands, expected
            )


def saturate_interleaved(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    for zero_point, low, high in bounds(random):
        values = [numbers(random, "int32", isa.lanes, high=2**31 - 1 - zero_point) for _ in range(4)]
        for value in values:
            value[: ROWS // 2] = random.integers(-300, 600, (ROWS // 2, isa.lanes))
        expected = meaning.saturate_interleaved(values, zero_point, low, high)
        yield trial(
            "saturate_interleaved",
            lambda *v, b=(zero_point, low, high): isa.saturate_interleaved(v, *b),
            values,
            expected,
        )


def weighted_sum(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    largest = 2**15 - 1
    multipliers = [(1, 1, 1), (largest, -largest, 15), (-(2**15), largest, 16), (2**20, -7, 21), (largest, largest, 30)]
    multipliers.append((int(random.integers(-largest, largest)), int(random.integers(-largest, largest)), 14))
    for (a_multiplier, b_multiplier, shift), (zero_point, low, high) in zip(multipliers, bounds(random), strict=True):
        a_zero_point, b_zero_point = (int(v) for v in random.choice([0, 1, 128, 255], 2))
        operator = QAdd(
            zero_point,
            low,
            high,
            a_zero_point=a_zero_point,
            b_zero_point=b_zero_point,
            a_multiplier=a_multiplier,
            b_multiplier=b_multiplier,
            shift=shift,
        )
        for lanes in (4 * isa.lanes, int(random.choice([1, isa.lanes]))):
            left, right = (numbers(random, "uint8", lanes) for _ in range(2))
            expected = meaning.weighted_sum(left, right, operator)
            yield trial("weighted_sum", functools.partial(isa.weighted_sum, operator=operator), (left, right), expected)


def lookup(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    for lanes in (4 * isa.lanes, isa.lanes, 1):
        indices, table = (numbers(random, "uint8", n) for n in (lanes, 256))
        vectors = np.split(isa.arrange_table(table), isa.table_vectors, axis=-1)
        expected = meaning.lookup(indices, table)
        yield trial("lookup", lambda indices, *table: isa.lookup(indices, table), (indices, *vectors), expected)


def matrices(isa: MatrixInstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    """Multiply matrices of whole, odd and least shapes, with rows that lie apart, and sums that begin with one row."""
    for rows, steps, columns in (
        (isa.matrix_rows, isa.matrix_row_bytes // 4, isa.matrix_row_bytes // 4),
        (7, 5, 3),
        (1, 1, 1),
    ):
        shapes = [(rows, 4 * columns), (rows, 4 * steps), (steps, 4 * columns)]
        strides = [0, 4 * steps + 3, 4 * columns + 8]
        sums, output_stride = numbers(random, "int32", columns, -(2**24), 2**24)[0], 4 * columns + 4
        memories = [sums, *(numbers(random, t, 1)[:, 0].repeat(32) for t in ("uint8", "int8"))]
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"tirx.noalias": True})
            inputs = [T.arg(f"x{i}", T.buffer((x.size,), str(x.dtype))) for i, x in enumerate(memories)]
            output = T.arg("y", T.buffer((rows * output_stride // 4,), "int32"))
            isa.configure(shapes)
            for register, (memory, stride) in enumerate(zip(inputs, strides, strict=True)):
                isa.load(register, memory, 0, stride)
            isa.multiply(0, 1, 2)
            isa.store(0, output, 0, output_stride)
            isa.release()
        loaded = [
            meaning.load(matrix, memory.view("uint8"), stride)
            for matrix, memory, stride in zip(meaning.configure(shapes), memories, strides, strict=True)
        ]
        before = np.zeros(rows * output_stride // 4, "int32")
        after = meaning.store(meaning.multiply(*loaded), before.view("uint8"), output_stride).view("int32")
        yield Trial("multiply", Call(builder.get(), (*memories, before)), (after,))


def streams(isa: InstructionSet, random: np.random.Generator) -> Iterator[Trial]:
    for dtype, limit in (("int8", 127), ("int16", 1000), ("float32", 1000)):
        counts = (1, 6, 4, 3, 2, 7)
        width = isa.lanes * 4 // np.dtype(dtype).itemsize
        values = numbers(random, "int16", sum(counts) * width, -limit, limit)[0].astype(dtype)
        with IRBuilder() as builder, T.prim_func():
            memory = T.arg("x", T.buffer((width + values.size,), dtype))
            output = T.arg("y", T.buffer((values.size,), dtype))
            with isa.functions(), T.serial(isa.iterations(1)):
                stream, first = isa.stream(memory, width), 0
                for count in counts:
                    for vector in stream.take(count):
                        T.buffer_store(output, isa.held(vector), [span(first, width)])
                        first += width
        padded = np.concatenate([np.zeros(width, dtype), values])
        yield Trial("stream", Call(builder.get(), (padded, np.zeros(values.size, dtype))), (meaning.stream(values),))
    yield distant_stream(isa, random)


def distant_stream(isa: InstructionSet, random: np.random.Generator) -> Trial:
    """Every second pair of vectors, each of which waits for the one before."""
    width, pairs = isa.lanes * 4, 3
    values = numbers(random, "int8", pairs * 4 * width)[0]
    with IRBuilder() as builder, T.prim_func():
        memory = T.arg("x", T.buffer((values.size,), "int8"))
        output = T.arg("y", T.buffer((values.size // 2,), "int8"))
        with isa.functions():
            stream = isa.stream(memory, 0)
            for pair in range(pairs):
                for i, vector in enumerate(stream.take(2, isa.distance(2, 4 * width))):
                    T.buffer_store(output, vector, [span((2 * pair + i) * width, width)])
                stream.wait([T.broadcast(T.int32(n), isa.lanes) for n in range(14)])
    expected = values.reshape(pairs, 2, -1)[:, 0].reshape(-1)
    return Trial("stream", Call(builder.get(), (values, np.zeros_like(expected))), (meaning.stream(expected),))


TRIALS: dict[str, Callable[[Any, np.random.Generator], Iterator[Trial]]] = {
    "activations": activations,
    "arrange": dot,
    "arrange_table": lookup,
    "clipped": clipped,
    "configure": matrices,
    "distance": streams,
    "dot": dot,
    "dot_bytes": dot_bytes,
    "dot_even_lanes": dot_even_lanes,
    "dot_int16": dot_int16,
    "dot_int4": dot_int4,
    "dot_lanes": dot_lanes,
    "dot_pairs": dot_pairs,
    "held": streams,
    "load": matrices,
    "lookup": lookup,
    "multiply": matrices,
    "multiply_block": multiply_block,
    "multiply_neighbours": multiply_neighbours,
    "multiply_add": multiply_add,
    "multiply_words": multiply_words,
    "quantized": quantized,
    "ramp": ramp,
    "rounded": rounded,
    "saturate": saturate,
    "saturate_interleaved": saturate_interleaved,
    "shuffle": shuffle,
    "store": matrices,
    "stream": streams,
    "sum_blocks": multiply_block,
    "weighted_sum": weighted_sum,
    "wide_products": wide_products,
}
"""What tries each primitive; some are tried by way of others."""


PRIMITIVES: dict[Capability, tuple[str, ...]] = {
    Capability.FUSED_MULTIPLY_ADD: (),
    Capability.LANE_DOT_PRODUCTS: ("dot_lanes", "saturate_interleaved"),
    Capability.WIDE_PRODUCTS: ("wide_products",),
    Capability.WORD_PRODUCTS: ("multiply_words",),
    Capability.BLOCK_PRODUCTS: ("multiply_block", "sum_blocks"),
    Capability.NEIGHBOUR_PRODUCTS: ("multiply_neighbours",),
    Capability.TABLE_LOOKUP: ("arrange_table", "lookup"),
    Capability.FUSED_LOOKUP: ("arrange_table", "lookup"),
    Capability.MATRIX_REGISTERS: ("configure", "load", "multiply", "store"),
}
"""What kernels that require a capability may use, beyond what all may."""


def refused(isa: InstructionSet) -> set[str]:
    """Return the primitives of the contract that an instruction set raises NotImplementedError for."""
    found = set()
    for primitive in primitives(isa):
        try:
            next(TRIALS[primitive](isa, np.random.default_rng(0)))
        except NotImplementedError:
            found.add(primitive)
    return found


@pytest.mark.parametrize("isa_name", instruction_sets())
@given(seed=SEEDS)
@settings(max_examples=1)
def test_primitives_compute_their_meaning(isa_name: str, seed: int) -> None:
    machine = runnable(isa_name)
    generators = {TRIALS[name] for name in primitives(machine.isa) - refused(machine.isa)}
    ordered = sorted(generators, key=lambda generator: generator.__name__)
    trials = [t for generator in ordered for t in generator(machine.isa, np.random.default_rng(seed))]
    results = machine.execute([t.call for t in trials], machine.target)
    for tried, result in zip(trials, results, strict=True):
        tried.check(result)


@pytest.mark.parametrize("isa_name", instruction_sets())
def test_every_primitive_has_a_meaning_and_is_tried(isa_name: str) -> None:
    meanings = {name for name, _ in inspect.getmembers(meaning, inspect.isfunction) if not name.startswith("_")}
    assert primitives(instruction_sets()[isa_name]) <= meanings
    assert meanings == set(TRIALS)


@pytest.mark.parametrize("isa", instruction_sets().values(), ids=instruction_sets())
def test_an_instruction_set_has_what_its_capabilities_say_and_what_every_kernel_may_use(isa: InstructionSet) -> None:
    everywhere = {"activations", "arrange", "dot", "dot_int16", "dot_int4"}
    everywhere |= {"clipped", "multiply_add", "ramp", "rounded", "saturate", "weighted_sum"}
    promised = everywhere.union(*(PRIMITIVES[capability] for capability in isa.capabilities))
    assert promised <= primitives(isa) - refused(isa)
    assert (isa.table_vectors > 0) == isa.has(Capability.TABLE_LOOKUP)


@pytest.mark.parametrize("isa", [isa for isa in instruction_sets().values() if isa.parent], ids=lambda isa: isa.name)
def test_an_instruction_set_has_all_that_its_parent_has(isa: InstructionSet) -> None:
    """Kernels that one can run, all of its children can."""
    assert isa.parent is not None
    assert isa.parent.capabilities <= isa.capabilities
