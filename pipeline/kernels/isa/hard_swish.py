"""A hard-swish of vectors of float32: see `ops.QHardSwish`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tvm.script import tirx as T

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib.vectors import lanes_of, splat, vector_type
from pipeline.ops import QHardSwish


def hard_swished(x: Any, factor: Any, summand: Any, operator: QHardSwish, isa: InstructionSet) -> Any:
    """Return the function's values in steps of the result, plus its zero point if there is a summand: int32.

    Args:
        x: a vector of float32, none of them NaN.
        factor: as many.
        summand: what `summand_of` returns for these factors, or None if it hasn't been computed before.
        operator: the function.
        isa: the instruction set.
    """
    lanes = lanes_of(x)
    bounded = x if operator.largest == math.inf else isa.clipped(x, None, operator.largest)
    q = isa.rounded(bounded * isa.ramp(x, 3.0) * factor)
    if not has_summand(operator):
        return q
    added = summand_of(factor, operator, isa) if summand is None else summand
    q = q + T.reinterpret(vector_type("int32", lanes), added)
    return T.shift_right(q, splat(T.int32(operator.fraction_bits), lanes)) if operator.fraction_bits else q


def has_summand(operator: QHardSwish) -> bool:
    """Return whether anything is added to the product before bits are shifted out, and so the zero point as well."""
    return bool(operator.shift or operator.fraction_bits)


def summand_of(factor: Any, operator: QHardSwish, isa: InstructionSet) -> Any:
    """Return what is added to the product: the shift, half of what is shifted out, and the zero point.

    It is int32, taken for float32, so that it can stand beside other constants.

    Args:
        factor: a vector of float32.
        operator: the function.
        isa: the instruction set.
    """
    lanes = lanes_of(factor)
    constant = splat(T.int32(operator.half + (operator.output_zero_point << operator.fraction_bits)), lanes)
    if operator.shift:
        constant = isa.rounded(factor * splat(T.float32(operator.shift), lanes)) + constant
    return T.reinterpret(vector_type("float32", lanes), constant)


def without_added(operator: QHardSwish) -> QHardSwish:
    """Return what `hard_swished` leaves to do: the zero point is 0 if that has added it."""
    return dataclasses.replace(operator, output_zero_point=0) if has_summand(operator) else operator
