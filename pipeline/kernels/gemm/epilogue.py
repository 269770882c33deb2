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
from pipeline.kernels.lib.vectors import fused_multiply_add, lanes_of, vector_type
from pipeline.ops import Add, Conv2d, Conv2dAdd, Dense, QConv2d, QConv2dAdd


@dataclass(frozen=True)
class Epilogue:
    """The last step of a kernel.

    Attributes:
        dtype: of the output.
        finish: from vectors of accumulators, and for each of `constants` as many vectors, TIR expressions, to one
            vector of outputs. It takes up to `together` vectors.
        together: how many vectors are finished together best.
        constants: how many numbers there are for each channel: its multiplier, and maybe its float offset.
        add: adds a vector of another tensor's outputs to one of this; None if there is nothing to add.
        halo_value: what a halo around the output is filled with.
    """

    dtype: str
    finish: Callable[..., Any]
    together: int = 1
    constants: int = 1
    add: Callable[[Any, Any], Any] | None = None
    halo_value: float = 0


def requantize(constants: IntegerConstants, isa: InstructionSet, *, interleaved: bool = False) -> Epilogue:
    """Return the last step of an integer operator: to uint8, or to float32 if `output_dtype` says so.

    Args:
        constants: of the operator.
        isa: the instruction set.
        interleaved: accumulators come four vectors at a time, as for `InstructionSet.saturate_interleaved`.
    """
    operator, table = constants.operator, constants.table
    scaled = _scaled_float if constants.floats else _scaled
    count = len(constants.scaling)
    if operator.output_dtype == "float32":

        def scale(accumulators: Sequence[Any], *scaling: Sequence[Any]) -> Any:
            return scaled(accumulators[0], *(s[0] for s in scaling))

        return Epilogue("float32", scale, constants=count)

    def finish(accumulators: Sequence[Any], *scaling: Sequence[Any]) -> Any:
        values = [isa.rounded(scaled(*vectors)) for vectors in zip(accumulators, *scaling, strict=True)]
        bounds = (operator.output_zero_point, operator.output_min, operator.output_max)
        if interleaved:
            result = isa.saturate_interleaved(values, *bounds)
        else:
            result = isa.saturate(values, *bounds, short=constants.short)
        if table is not None:
            result = isa.lookup(result, _constant_vectors(isa.arrange_table(table), isa.table_vectors))
        return result

    halo_value = operator.halo_value if isinstance(operator, QConv2d) else 0
    add = functools.partial(isa.weighted_sum, operator=operator.addition) if isinstance(operator, QConv2dAdd) else None
    return Epilogue("uint8", finish, isa.saturate_vectors, count, add, halo_value)


def activate(operator: Conv2d | Dense, isa: InstructionSet) -> Epilogue:
    """Return the last step of a float32 operator: its activation, without any multiplier."""

    def finish(accumulators: Sequence[Any], _: Sequence[Any]) -> Any:
        return isa.clipped(accumulators[0], operator.clip_min, operator.clip_max)

    def add(result: Any, other: Any) -> Any:
        return isa.clipped(result + other, total.clip_min, total.clip_max)

    total = operator.addition if isinstance(operator, Conv2dAdd) else Add()
    halo_value = operator.halo_value if isinstance(operator, Conv2d) else 0.0
    add_or_none = add if isinstance(operator, Conv2dAdd) else None
    return Epilogue("float32", finish, add=add_or_none, halo_value=halo_value)


def _constant_vectors(table: npt.NDArray[np.uint8], count: int) -> list[Any]:
    """Return a table as constant vectors, which LLVM loads where they are used, so that they occupy no registers."""
    return [T.Shuffle([T.uint8(int(v)) for v in row], list(range(len(row)))) for row in table.reshape(count, -1)]


def _scaled(accumulator: Any, multiplier: Any) -> Any:
    return T.cast(accumulator, vector_type("float32", lanes_of(accumulator))) * multiplier


def _scaled_float(accumulator: Any, multiplier: Any, offset: Any) -> Any:
    value = T.reinterpret(vector_type("float32", lanes_of(accumulator)), accumulator)
    return fused_multiply_add(value, multiplier, offset)
