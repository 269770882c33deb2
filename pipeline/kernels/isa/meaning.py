"""What each method of an instruction set computes, in NumPy; tests compare every instruction set with it.

A function here has the name of the method that it describes (`contract.py`, for matrix registers `x86/amx.py`). It
takes arrays where the method takes vectors: their lanes are the last axis, and any axes may come before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.kernels.isa.contract import Array
from pipeline.ops import QAdd


def arrange(weights: Array) -> Array:
    """Any order of the last two axes, [lanes, dot_depth], as one; `dot` says what it must fit."""
    return weights.reshape(*weights.shape[:-2], -1)


def activations(values: Array, offset: int) -> Array:
    """The offset is the instruction set's `activation_offset`: 0, or 128."""
    return values.astype("int16") - offset


def dot(acc: Array, activations: Array, weights: Array) -> Array:
    """Activations are [dot_depth], weights [lanes, dot_depth] before they are arranged; no sum may leave int32."""
    return dot_lanes(acc, activations[..., np.newaxis, :], weights)


def dot_lanes(acc: Array, activations: Array, weights: Array) -> Array:
    """Activations and weights are [lanes, dot_depth]; no sum may leave int32."""
    return _int32(acc + (activations.astype("int64") * weights).sum(axis=-1))


def dot_int4(acc: Array, activations: Array, weights: Array) -> Array:
    """Activations are [dot_depth], weights [lanes, dot_depth] in [-8, 7]; no sum may leave int32."""
    return dot_lanes(acc, activations[..., np.newaxis, :], weights)


def dot_int16(acc: Array, activations: Array, weights: Array) -> Array:
    """Activations are [int16_depth], weights [lanes, int16_depth]; no sum may leave int32."""
    return dot_lanes(acc, activations[..., np.newaxis, :], weights)


def stream(memory: Array) -> Array:
    """The vectors in memory, one after another."""
    return memory


def distance(size: int) -> int:
    """The number as it is."""
    return size


def held(vector: Array) -> Array:
    """The vector as it is."""
    return vector


def dot_pairs(acc: Array, left: Array, right: Array) -> Array:
    """Left and right are [2 * lanes] int16; no sum of two products, and no result, may leave int32."""
    products = left.astype("int64") * right
    return _int32(acc + _int32(products[..., 0::2] + products[..., 1::2]))


def wide_products(left: Array, right: Array) -> Array:
    """The products of all lanes, which the method returns in two vectors."""
    return left.astype("int16") * right


def multiply_words(acc: Array, activations: Array, step: int, weights: Array) -> Array:
    """Sums are [n], which the method takes and returns in vectors, weights [n, depth], activations [steps * depth]."""
    depth = weights.shape[-1]
    values = activations[..., np.newaxis, step * depth : (step + 1) * depth].astype("int64")
    return np.asarray((acc + (values * weights).sum(axis=-1)).astype("uint32").view("int32"))


def multiply_block(acc: Array, activations: Array, step: int, weights: Array) -> Array:
    """Sums are [pixels, channels], activations [pixels, steps * depth], weights [channels, depth]."""
    depth = weights.shape[-1]
    values = activations[..., :, np.newaxis, step * depth : (step + 1) * depth]
    return dot_lanes(acc, values, weights[..., np.newaxis, :, :])


def multiply_neighbours(acc: Array, activations: Array, first: int, weights: Array) -> Array:
    """Sums are [pixels, channels], activations [pixels of a vector, depth], weights [channels, depth]."""
    pixels = activations[..., first : first + acc.shape[-2], :]
    return multiply_block(acc, pixels, 0, weights)


def sum_blocks(sums: Sequence[Array]) -> Array:
    """Sums are [pixels, channels, lanes that hold a sum together]; the result is [pixels, channels of all]."""
    return _int32(np.concatenate([s.astype("int64").sum(axis=-1) for s in sums], axis=-1))


def dot_even_lanes(acc: Array, activations: Array, weights: Array) -> Array:
    """Activations and weights are [lanes, dot_depth], of which those at even places count; no sum may leave int32."""
    return dot_lanes(acc, activations[..., 0::2], weights[..., 0::2])


def dot_bytes(acc: Array, activations: Array, weights: Array) -> Array:
    """Activations are [4], weights [lanes, 4]; no sum of two neighbouring products may leave int16, no sum int32."""
    products = activations[..., np.newaxis, :].astype("int64") * weights
    pairs = _narrowed(products[..., 0::2] + products[..., 1::2], "int16")
    return _int32(acc + pairs.astype("int64").sum(axis=-1))


def shuffle(values: Array, order: Array) -> Array:
    """Each 16 bytes in the order that 16 numbers below 16 give."""
    blocks, places = (x.reshape(*x.shape[:-1], -1, 16) for x in (values, order))
    return np.take_along_axis(blocks, places.astype("int64"), axis=-1).reshape(values.shape)


def multiply_add(acc: Array, activation: Array, weights: Array) -> tuple[Array, Array]:
    """Either of two: product and sum rounded to float32 each, or the sum alone, which is exact here if float64 is."""
    exact = acc.astype("float64") + activation.astype("float64") * weights
    return acc + activation * weights, exact.astype("float32")


def clipped(value: Array, low: float | None, high: float | None) -> Array:
    """NumPy's limits let NaN pass, too."""
    return np.clip(value, low, high) if low is not None or high is not None else value


def ramp(value: Array, limit: float) -> Array:
    """In float32; the limits lose nothing."""
    return np.asarray(np.clip(value, np.float32(-limit), np.float32(limit)) + np.float32(limit))


def rounded(value: Array) -> Array:
    """Ties go to the even one of two integers."""
    return _int32(np.rint(value.astype("float64")))


def saturate(values: Sequence[Array], zero_point: int, low: int, high: int) -> Array:
    """The vectors' results follow one another; no value may leave int32 when the zero point is added."""
    shifted = _int32(np.concatenate(values, axis=-1).astype("int64") + zero_point)
    return np.clip(shifted, low, high).astype("uint8")


def saturate_interleaved(values: Sequence[Array], zero_point: int, low: int, high: int) -> Array:
    """Each 16 channels come four from the first vector, four from the second, the third, the fourth."""
    fours = [value.reshape(*value.shape[:-1], -1, 4) for value in values]
    channels = np.concatenate(fours, axis=-1)
    return saturate([channels.reshape(*channels.shape[:-2], -1)], zero_point, low, high)


def quantized(values: Sequence[Array], zero_point: int, low: int, high: int, dtype: str) -> Array:
    """Rounded and saturated; of int8, 128 is subtracted, as its results are stored so."""
    unsigned = saturate([rounded(value) for value in values], zero_point, low, high)
    return (unsigned.astype("int16") + np.iinfo(dtype).min).astype(dtype)


def weighted_sum(left: Array, right: Array, operator: QAdd) -> Array:
    """Half of the step is added before the shift, which rounds down; no sum may leave int32."""
    total = (left.astype("int64") - operator.a_zero_point) * operator.a_multiplier
    total += (right.astype("int64") - operator.b_zero_point) * operator.b_multiplier
    shifted = _int32(total + (1 << (operator.shift - 1))) >> operator.shift
    return saturate([shifted], operator.output_zero_point, operator.output_min, operator.output_max)


def arrange_table(table: Array) -> Array:
    """Any form of the table's 256 entries; `lookup` says what it must fit."""
    return table


def lookup(indices: Array, table: Array) -> Array:
    """The table is [256] before it is arranged."""
    return np.take_along_axis(table, indices.astype("int64"), axis=-1)


def configure(shapes: Sequence[tuple[int, int]]) -> list[Array]:
    """The registers: rows by bytes, all zero."""
    return [np.zeros(shape, "uint8") for shape in shapes]


def load(register: Array, memory: Array, stride: int) -> Array:
    """The register [rows, bytes], filled from memory [bytes], which begins at the first row."""
    starts = stride * np.arange(register.shape[0])
    return np.asarray(memory[starts[:, np.newaxis] + np.arange(register.shape[1])], "uint8")


def multiply(sums: Array, activations: Array, weights: Array) -> Array:
    """Of bytes: sums are [rows][columns] of int32, activations [rows][4 * steps], weights [steps][columns][4]."""
    steps, columns = weights.shape[0], weights.shape[1] // 4
    fours = weights.view("int8").reshape(steps, columns, 4)
    lanes = activations.reshape(-1, 1, 4 * steps), np.moveaxis(fours, 1, 0).reshape(1, columns, 4 * steps)
    return np.asarray(dot_lanes(np.ascontiguousarray(sums).view("int32"), *lanes).view("uint8"))


def store(register: Array, memory: Array, stride: int) -> Array:
    """The memory [bytes], with the register's rows written over it."""
    result = memory.copy()
    for row, values in enumerate(register):
        result[row * stride : row * stride + len(values)] = values
    return result


def _int32(value: Array) -> Array:
    return _narrowed(value, "int32")


def _narrowed(value: Array, dtype: str) -> Array:
    narrow = value.astype(dtype)
    if not np.array_equal(narrow, value):
        raise OverflowError(f"The operands' sum isn't an {dtype}: no instruction set says what it becomes")
    return narrow
