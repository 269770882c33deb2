"""The interface of instruction sets for generators of kernels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from enum import Enum, unique
from typing import Any, Protocol, TypeVar

import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib import requantize
from pipeline.kernels.lib.buffers import VectorsInOrder
from pipeline.kernels.lib.vectors import (
    as_stored,
    clip,
    lanes_of,
    shift_and_clamp,
    splat,
    vector_type,
    with_other_sign,
)
from pipeline.ops import QAdd

Array = npt.NDArray[Any]


Derived = TypeVar("Derived", bound="InstructionSet")


class Stream(Protocol):
    """Vectors in memory, one after another."""

    def take(self, count: int, distance: Any = None) -> Iterator[Any]:
        """Yield the next vectors; all of them must be taken before there are others.

        Args:
            count: how many; few enough for one load, if there is a distance.
            distance: int64 TIR expression: bytes from the first one to what is taken next; None for what lies behind
                the last one.
        """

    def wait(self, vectors: Sequence[Any]) -> None:
        """Have what is taken next loaded after int32 vectors have been computed, not as early as LLVM likes to."""


@unique
class Capability(Enum):
    """Something that only some instruction sets have, so that kernels which use it have to require it.

    All but the first stand for methods, which are named; an instruction set with the capability implements them.
    """

    FUSED_MULTIPLY_ADD = "multiply-adds of float32 that round once: see `requantize.sums_are_floats`"
    LANE_DOT_PRODUCTS = "`dot_lanes` and `saturate_interleaved`: dot products of activations of each lane's own"
    WIDE_PRODUCTS = "`wide_products` of bytes; to add them to 32 bits takes one instruction, too"
    WORD_PRODUCTS = "`multiply_words`: values of 16 bits by weights of 16 bits, modulo 2**32"
    BLOCK_PRODUCTS = "`multiply_block` and `sum_blocks`: several pixels by several channels, or many values, at once"
    NEIGHBOUR_PRODUCTS = "`multiply_neighbours`: the same of pixels whose values of a step lie together in a vector"
    TABLE_LOOKUP = "`arrange_table` and `lookup`: a table of 256 bytes in vectors, quicker than loads from memory"
    FUSED_LOOKUP = "the same, quick and small enough for the results of a convolution while they are in registers"
    MATRIX_REGISTERS = "`configure`, `load`, `multiply`, `store` and `release`: products of whole matrices"


@dataclass(frozen=True)
class Blocks:
    """What an instruction multiplies.

    Attributes:
        pixels, channels: so many by so many at once.
        depth: how many products it adds to each sum.
        loaded: how many values of a pixel a load brings; see `InstructionSet.load_bytes`.
    """

    pixels: int
    channels: int
    depth: int
    loaded: int


@dataclass(frozen=True)
class InstructionSet:
    """The sizes of an instruction set's registers, and the few operations that kernels consist of.

    The base class implements the operations by plain vector arithmetic, for which LLVM chooses instructions. A subclass
    with a better instruction overrides the method. All values are TIR expressions; `meaning.py` shows in NumPy what
    they compute. A method that belongs to a capability raises NotImplementedError if the instruction set doesn't have
    it.

    Attributes:
        name: as in targets/*.toml.
        parent: the instruction set that this one extends; None for the portable one.
        lanes: how many int32 or float32 values one vector register holds.
        registers: how many vector registers there are.
        dot_depth: how many 8-bit products `dot` sums into each int32 lane.
        dot_instructions: about how many instructions `dot` takes where its operands lie in memory.
        int16_depth: how many products of 16-bit values `dot_int16` sums into each int32 lane.
        activation_offset: what `activations` subtracts for `dot`: 0 where that takes them as uint8, 128 where as int8.
        load_bytes: how many bytes of a pixel are best loaded at once, as instructions take a step's values from any
            place in a register; 0 where each step's values are best loaded by themselves.
        block_pixels, block_channels: of how many pixels and channels `multiply_block` has sums, and
        block_depth: how many products it adds to each.
        weight_dtype: how weights are stored for `dot`: int8, or wider if that saves instructions.
        saturate_vectors: how many int32 vectors `saturate` narrows together best.
        pixels_together: how many neighbouring pixels an instruction takes at once.
        overwrites_addends: whether a multiply-add takes the place of its addend, which is then best loaded each time.
        table_vectors: how many vectors hold a table of 256 bytes for `lookup`.
        half: an instruction set that multiplies vectors of half as many lanes, where those take half the time.
        capabilities: what it has that not all have.
    """

    name: str
    parent: InstructionSet | None
    lanes: int
    registers: int
    dot_depth: int = 1
    dot_instructions: int = 1
    int16_depth: int = 1
    activation_offset: int = 0
    load_bytes: int = 0
    block_pixels: int = 0
    block_channels: int = 0
    block_depth: int = 0
    weight_dtype: str = "int8"
    saturate_vectors: int = 1
    pixels_together: int = 1
    overwrites_addends: bool = False
    table_vectors: int = 0
    half: InstructionSet | None = None
    capabilities: frozenset[Capability] = frozenset()

    @classmethod
    def extending(
        cls: type[Derived], parent: InstructionSet, name: str, adding: Collection[Capability] = (), **changes: Any
    ) -> Derived:
        """Return an instruction set of this class that has everything its parent has, and more.

        Args:
            parent: gives all attributes but those in `changes`.
            name: of the new one.
            adding: capabilities that the parent lacks.
            changes: attributes that differ.

        Raises:
            TypeError: this class has an attribute without a default that neither the parent nor `changes` has.
        """
        inherited = {f.name: getattr(parent, f.name) for f in fields(cls) if hasattr(parent, f.name)}
        own = {"name": name, "parent": parent, "capabilities": parent.capabilities | frozenset(adding)}
        return cls(**inherited | own | changes)

    @property
    def activation_dtype(self) -> str:
        """The dtype in which `dot` takes activations."""
        return "int8" if self.activation_offset else "uint8"

    def blocks(self, dtype: str) -> Blocks:
        """Return what `multiply_add` multiplies, float32, or `multiply_block`, for all others."""
        if dtype == "float32":
            return Blocks(1, self.lanes, 1, self.load_bytes // 4)
        return Blocks(self.block_pixels, self.block_channels, self.block_depth, self.load_bytes)

    def has(self, *capabilities: Capability) -> bool:
        """Return whether this instruction set has all of some capabilities."""
        return self.capabilities.issuperset(capabilities)

    def lineage(self) -> tuple[InstructionSet, ...]:
        """Return this instruction set and its ancestors, nearest first."""
        return (self,) if self.parent is None else (self, *self.parent.lineage())

    def arrange(self, weights: Array) -> Array:
        """Return weights for `dot` in the order in which its vector holds them: [..., lanes * dot_depth].

        Args:
            weights: [..., lanes, dot_depth].
        """
        return weights.reshape(*weights.shape[:-2], -1)

    def activations(self, values: Any) -> Any:
        """Return `values - activation_offset`, as `dot` takes them.

        Args:
            values: uint8 vector of any length, or int8 of values that are stored minus 128.
        """
        stored = str(values.ty.dtype).partition("x")[0]
        if stored == self.activation_dtype:
            return values
        return with_other_sign(values)

    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc + sum over dot_depth of activations * weights`.

        Args:
            acc: int32 vector of `lanes`.
            activations: `dot_depth` neighbouring values of one pixel, the same for all lanes; see `activations`.
            weights: vector of `lanes * dot_depth` in `weight_dtype`, in the order that `arrange` returns.
        """
        if self.dot_depth != 1:
            raise NotImplementedError(f"{self.name} sums {self.dot_depth} products and must define its own dot")
        return acc + T.broadcast(T.cast(activations, "int32"), self.lanes) * T.cast(weights, f"int32x{self.lanes}")

    def dot_int4(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return what `dot` returns, of weights of 4 bits, which may be quicker.

        Args:
            acc: int32 vector of `lanes`.
            activations: `dot_depth` neighbouring values of one pixel, the same for all lanes, before `activations`.
            weights: int8 vector of `lanes * dot_depth` with values in [-8, 7], for each lane its values together.
        """
        return self.dot(acc, self.activations(activations), weights)

    def dot_int16(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc + sum over int16_depth of activations * weights`, for values of 16 bits.

        Args:
            acc: int32 vector of `lanes`.
            activations: `int16_depth` neighbouring int16 values of one pixel, the same for all lanes.
            weights: int8 vector of `lanes * int16_depth`, for each lane its values together.
        """
        if self.int16_depth != 1:
            raise NotImplementedError(f"{self.name} sums {self.int16_depth} products and must define its own dot_int16")
        words, wide = f"int16x{self.lanes}", f"int32x{self.lanes}"
        return acc + T.cast(T.broadcast(activations, self.lanes), wide) * T.cast(T.cast(weights, words), wide)

    def functions(self) -> AbstractContextManager[Any]:
        """Return a context for statements that use `stream`, `held`, `iterations` or arithmetic modulo 2**32."""
        return nullcontext()

    def stream(self, buffer: Any, start: Any) -> Stream:
        """Return the vectors of a buffer, int8, int16, int32 or float32, from an index on."""
        return VectorsInOrder(buffer, start, 4 * self.lanes)

    def distance(self, count: int, size: int) -> Any:
        """Return a number of bytes, as `Stream.take` adds it best after it has loaded `count` vectors."""
        return T.int64(size)

    def held(self, vector: Any) -> Any:
        """Return a vector that was loaded, of which LLVM doesn't load lanes again."""
        return vector

    def iterations(self, count: int) -> Any:
        """Return a number of iterations of a loop that LLVM isn't to unroll."""
        return count

    def dot_lanes(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return what `dot` returns, but with activations of its own for each lane.

        Args:
            acc: int32 vector of `lanes`.
            activations: vector of `lanes * dot_depth`; see `activations`.
            weights: as of `dot`.
        """
        raise NotImplementedError(f"{self.name} has no dot product of {self.dot_depth} values in each lane")

    def wide_products(self, left: Any, right: Any) -> list[Any]:
        """Return the products of signed bytes as two int16 vectors of `2 * lanes`, one after the other.

        Args:
            left: int8 vector of `4 * lanes`.
            right: the same.
        """
        raise NotImplementedError(f"{self.name} multiplies no bytes")

    def multiply_words(self, acc: Sequence[Any], activations: Any, step: int, weights: Any) -> list[Any]:
        """Return `acc` plus the sums of `int16_depth` products of words, modulo 2**32.

        Args:
            acc: `2 / int16_depth` int32 vectors of `lanes`, one after the other.
            activations: of a pixel `int16_depth` values, int16, or those of as many steps as `load_bytes` has.
            step: which of these steps' values to multiply.
            weights: int16 vector of `2 * lanes`: for each lane of `acc` its `int16_depth` values together.
        """
        raise NotImplementedError(f"{self.name} multiplies no words")

    def multiply_block(self, acc: Any, activations: Sequence[Any], step: int, weights: Any) -> Any:
        """Return `acc` plus the products of `block_pixels` by `block_channels`, of `block_depth` values each.

        Args:
            acc: int32 vector of `lanes`, pixel by pixel; if there are more lanes than pixels by channels, neighbouring
                ones together hold a sum.
            activations: of each pixel a vector of `block_depth` values, or of as many steps' as `load_bytes` has; see
                `activations`.
            step: which of these steps' values to multiply.
            weights: for each channel its `block_depth` weights, int8.
        """
        raise NotImplementedError(f"{self.name} has no product of blocks")

    def multiply_neighbours(self, acc: Any, activations: Any, first: int, weights: Any) -> Any:
        """Return what `multiply_block` returns, of neighbouring pixels whose values lie in one vector.

        Args:
            acc: as of `multiply_block`.
            activations: vector of `load_bytes`: `block_depth` values of each pixel; see `activations`.
            first: number of the first of the `block_pixels` pixels.
            weights: as of `multiply_block`.
        """
        raise NotImplementedError(f"{self.name} has no product of blocks of neighbouring pixels")

    def sum_blocks(self, sums: Sequence[Any]) -> list[Any]:
        """Return the sums of each of `block_pixels`, as a vector of `lanes` channels.

        Args:
            sums: what `multiply_block` returned for `lanes / block_channels` blocks of channels.
        """
        raise NotImplementedError(f"{self.name} has no product of blocks")

    def multiply_add(self, acc: Any, activation: Any, weights: Any) -> Any:
        """Return `acc + activation * weights` in float32, which LLVM contracts into one rounding where the CPU can.

        Args:
            acc: float32 vector of `lanes`.
            activation: one float32 value.
            weights: float32 vector of `lanes`.
        """
        return acc + T.broadcast(activation, self.lanes) * weights

    def clipped(self, value: Any, low: float | None, high: float | None) -> Any:
        """Return float32 values limited to [low, high]; None is no limit, NaN stays NaN, and zeros have either sign.

        Args:
            value: float32 vector of any length, or a scalar.
            low: least result.
            high: largest result.
        """
        return clip(value, low, high)

    def ramp(self, value: Any, limit: float) -> Any:
        """Return float32 values limited to [-limit, limit], plus `limit`: from 0 up to twice the limit.

        Args:
            value: float32 vector of any length, or a scalar; none is NaN.
            limit: above 0.
        """
        return self.clipped(value, -limit, limit) + splat(T.float32(limit), lanes_of(value))

    def rounded(self, value: Any) -> Any:
        """Return the int32 nearest to each float32, ties to even; it must fit.

        Args:
            value: float32 vector of any length, or a scalar.
        """
        return requantize.rounded(value)

    def saturate(self, values: Sequence[Any], zero_point: int, low: int, high: int) -> Any:
        """Return `uint8(clamp(values + zero_point, low, high))` as one vector.

        Args:
            values: int32 vectors of equal length: one of any length, or up to `saturate_vectors` of `lanes`.
            zero_point: added to each value.
            low: least result, at least 0.
            high: largest result, at most 255.
        """
        (value,) = values
        return shift_and_clamp(value, zero_point, low, high)

    def rounding_offset(self, zero_point: int, dtype: str) -> float | None:
        """Return a number for `quantized` to take in a vector, where it uses one; arguments are the same."""
        del zero_point, dtype
        return None

    def quantized(
        self, values: Sequence[Any], zero_point: int, low: int, high: int, dtype: str, offset: Any = None
    ) -> Any:
        """Return `uint8(clamp(round(values) + zero_point, low, high))` as one vector, as it is stored in `dtype`.

        Args:
            values: float32 vectors, as many and as long as those of `saturate`, which fit int16 once they are rounded.
            zero_point: added to each value.
            low: least result, at least 0.
            high: largest result, at most 255.
            dtype: uint8, or int8 for results minus 128.
            offset: float32 vector of `lanes` of what `rounding_offset` returns, if the kernel has one.
        """
        integers = [self.rounded(value) for value in values]
        return as_stored(self.saturate(integers, zero_point, low, high), dtype)

    def weighted_sum(self, left: Any, right: Any, operator: QAdd) -> Any:
        """Return `qnn.add(left, right)`; see the operator's description.

        Args:
            left: uint8 vector of any length.
            right: uint8 vector of the same length.
            operator: zero points, multipliers and the rest.
        """
        lanes = lanes_of(left)

        def term(quantized: Any, zero_point: int, multiplier: int) -> Any:
            wide = T.cast(quantized, vector_type("int32", lanes))
            return (wide - splat(T.int32(zero_point), lanes)) * splat(T.int32(multiplier), lanes)

        half = splat(T.int32(1 << (operator.shift - 1)), lanes)
        total = term(left, operator.a_zero_point, operator.a_multiplier) + term(
            right, operator.b_zero_point, operator.b_multiplier
        )
        shifted = T.shift_right(total + half, splat(T.int32(operator.shift), lanes))
        return shift_and_clamp(shifted, operator.output_zero_point, operator.output_min, operator.output_max)

    def saturate_interleaved(self, values: Sequence[Any], zero_point: int, low: int, high: int) -> Any:
        """Return `uint8(clamp(values + zero_point, low, high))` of four vectors that came from interleaved bytes.

        Interleaving bytes, and then pairs of bytes, within each 128 bits gives four vectors: the first holds the
        first four of each 16 channels, and so on. The result has all channels in their own order.

        Args:
            values: four int32 vectors of `lanes`.
            zero_point: added to each value.
            low: least result, at least 0.
            high: largest result, at most 255.
        """
        raise NotImplementedError(f"{self.name} doesn't interleave bytes")

    def arrange_table(self, table: Array) -> Array:
        """Return tables of 256 bytes as `lookup` takes them: [..., table_vectors * bytes of a vector] uint8.

        Args:
            table: [..., 256] uint8.
        """
        raise NotImplementedError(f"{self.name} has no quick way to look bytes up")

    def lookup(self, indices: Any, table: Sequence[Any]) -> Any:
        """Return the entries of a table of 256 bytes, as a vector like `indices`.

        Args:
            indices: uint8 vector of at most 4 * `lanes`.
            table: the `table_vectors` uint8 vectors that `arrange_table` makes of it.
        """
        raise NotImplementedError(f"{self.name} has no quick way to look bytes up")
