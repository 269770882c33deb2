"""Vectors of any length narrowed to 8 or 16 bits, by what an instruction set does best."""

from __future__ import annotations

from typing import Any

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib.vectors import lanes_of, part, shift_and_clamp
from pipeline.ops import Requantized


def saturate(q: Any, operator: Requantized, isa: InstructionSet) -> Any:
    """Return `output_dtype(clamp(q + output_zero_point, output_min, output_max))` for int32 values of any length."""
    bounds = operator.output_zero_point, operator.output_min, operator.output_max
    if operator.output_dtype != "uint8":
        return shift_and_clamp(q, *bounds, operator.output_dtype)
    vectors, rest = divmod(lanes_of(q), isa.lanes)
    if rest or not 0 < vectors <= isa.saturate_vectors:
        return shift_and_clamp(q, *bounds)
    return isa.saturate([part(q, i * isa.lanes, isa.lanes) for i in range(vectors)], *bounds)
