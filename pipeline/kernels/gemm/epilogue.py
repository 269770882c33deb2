"""The epilogue of a kernel, applied to finished accumulators before they are stored: requantization or activation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.isa.hard_swish import hard_swished
from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.requantize import FLOAT_OFFSET
from pipeline.kernels.lib.vectors import (
    as_stored,
    fused_multiply_add,
    lanes_of,
    splat,
    vector_type,
    with_other_sign,
)
from pipeline.ops import Add, Conv2d, Conv2dAdd, Dense, QConv2d, QConv2dAdd, QDense, QHardSwish

MOST = 64
"""So many kernels that were generated are kept, those that were asked for last."""


@dataclass(frozen=True)
class Epilogue:
    """The last step of a kernel.

    Attributes:
        dtype: of the output.
        finish: from vectors of accumulators and, for each of `scales`, as many of constants, TIR expressions, to one
            vector of outputs. It takes up to `together` vectors.
        together: how many vectors are finished together best.
        add: adds a vector of another tensor's outputs to one of this; None if there is nothing to add.
        added_dtype: of that other tensor.
        halo_value: what a halo around the output is filled with.
        scales: how many float32 constants there are for each channel: a multiplier, and a factor if that is 2; see
            `IntegerConstants.packed_scales`.
    """

    dtype: str
    finish: Callable[..., Any]
    together: int = 1
    add: Callable[[Any, Any], Any] | None = None
    added_dtype: str = ""
    halo_value: float = 0
    scales: int = 1


def requantize(
    constants: IntegerConstants, isa: InstructionSet, *, interleaved: bool = False, kept: bool = True
) -> Epilogue:
    """Return the last step of an integer operator: to uint8, or to int16 or float32 if `output_dtype` says so.

    It is the same object wherever it consists of the same instructions, so that kernels needn't be generated again.

    Args:
        constants: of the operator.
        isa: the instruction set.
        interleaved: accumulators come four vectors at a time, as for `InstructionSet.saturate_interleaved`.
        kept: whether multipliers are in registers, where several vectors of accumulators share them.
    """
    table = None if constants.table is None else tuple(constants.table.tolist())
    added, function = constants.added_dtype, constants.function
    wanted = _Requantization(constants.operator, constants.floats, constants.short, added, table, function)
    return _requantize(wanted, isa, interleaved, kept)


@dataclass(frozen=True)
class _Requantization:
    """What the instructions depend on; see `IntegerConstants`. The table's values are numbers."""

    operator: QConv2d | QDense
    floats: bool
    short: bool
    added_dtype: str
    table: tuple[int, ...] | None
    function: QHardSwish | None


@functools.lru_cache(maxsize=MOST)
def _requantize(wanted: _Requantization, isa: InstructionSet, interleaved: bool, kept: bool) -> Epilogue:
    operator, added_dtype, function = wanted.operator, wanted.added_dtype, wanted.function
    table = None if wanted.table is None else np.array(wanted.table, "uint8")
    scaled = _scaled
    if wanted.floats:
        scaled = _scaled_float if kept else _scaled_difference
    if operator.output_dtype == "float32":

        def scale(accumulators: Sequence[Any], multipliers: Sequence[Any]) -> Any:
            return scaled(accumulators[0], multipliers[0])

        return Epilogue("float32", scale)
    if operator.output_dtype == "int16":

        def narrow(accumulators: Sequence[Any], multipliers: Sequence[Any]) -> Any:
            return saturate(isa.rounded(scaled(accumulators[0], multipliers[0])), operator, isa)

        return Epilogue("int16", narrow)

    def finish(accumulators: Sequence[Any], multipliers: Sequence[Any], factors: Sequence[Any] = ()) -> Any:
        values = [scaled(a, m) for a, m in zip(accumulators, multipliers, strict=True)]
        bounds = (operator.output_zero_point, operator.output_min, operator.output_max)
        dtype = "uint8" if added_dtype else operator.output_dtype
        narrow_dtype = dtype if table is None else "uint8"
        if wanted.short and function is None and not interleaved:
            result = isa.quantized(values, *bounds, narrow_dtype)
        else:
            if function is None:
                integers = [isa.rounded(v) for v in values]
            else:
                integers = [hard_swished(v, f, function, isa) for v, f in zip(values, factors, strict=True)]
            narrow = isa.saturate_interleaved if interleaved else isa.saturate
            result = as_stored(narrow(integers, *bounds), narrow_dtype)
        if table is not None:
            looked_up = isa.lookup(result, _constant_vectors(isa.arrange_table(table), isa.table_vectors))
            result = as_stored(looked_up, dtype)
        return result

    def add(result: Any, other: Any) -> Any:
        if not isinstance(operator, QConv2dAdd):
            raise TypeError(f"Expected qnn.conv2d_add, got {operator}")
        other = other if added_dtype == "uint8" else with_other_sign(other)
        return as_stored(isa.weighted_sum(result, other, operator.addition), operator.output_dtype)

    halo_value = operator.halo_value if isinstance(operator, QConv2d) else 0
    add_or_none = add if added_dtype else None
    scales = 1 if function is None else 2
    return Epilogue(operator.output_dtype, finish, isa.saturate_vectors, add_or_none, added_dtype, halo_value, scales)


@functools.lru_cache(maxsize=MOST)
def activate(operator: Conv2d | Dense, isa: InstructionSet) -> Epilogue:
    """Return the last step of a float32 operator: its activation, without any multiplier."""

    def finish(accumulators: Sequence[Any], _: Sequence[Any]) -> Any:
        return isa.clipped(accumulators[0], operator.clip_min, operator.clip_max)

    def add(result: Any, other: Any) -> Any:
        return isa.clipped(result + other, total.clip_min, total.clip_max)

    total = operator.addition if isinstance(operator, Conv2dAdd) else Add()
    halo_value = operator.halo_value if isinstance(operator, Conv2d) else 0.0
    add_or_none = add if isinstance(operator, Conv2dAdd) else None
    return Epilogue("float32", finish, add=add_or_none, added_dtype="float32", halo_value=halo_value)


def _constant_vectors(table: npt.NDArray[np.uint8], count: int) -> list[Any]:
    """Return a table as constant vectors, which LLVM loads where they are used, so that they occupy no registers."""
    return [T.Shuffle([T.uint8(int(v)) for v in row], list(range(len(row)))) for row in table.reshape(count, -1)]


def _scaled(accumulator: Any, multiplier: Any) -> Any:
    return T.cast(accumulator, vector_type("float32", lanes_of(accumulator))) * multiplier


def _scaled_float(accumulator: Any, multiplier: Any) -> Any:
    lanes = lanes_of(accumulator)
    value = T.reinterpret(vector_type("float32", lanes), accumulator)
    # Vectors that share a multiplier share the offset, too. Stored, it would take as much space as all multipliers.
    offset = multiplier * splat(T.float32(-FLOAT_OFFSET), lanes)
    return fused_multiply_add(value, multiplier, offset)


def _scaled_difference(accumulator: Any, multiplier: Any) -> Any:
    lanes = lanes_of(accumulator)
    value = T.reinterpret(vector_type("float32", lanes), accumulator)
    # The difference is exact. Both instructions can take an operand from memory, so that they are no more than a load
    # of the multiplier and a fused multiply-add with a stored offset.
    return (value - splat(T.float32(FLOAT_OFFSET), lanes)) * multiplier
