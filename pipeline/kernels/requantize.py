"""From int32 accumulators back to 8 bits, or to float32: exact, and the same on every CPU.

There is one float multiply, and what follows it is a rounding, never an addition: LLVM may contract a multiply and an
add into one instruction with a different result. Rounding is to nearest, ties to even, everywhere.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from pipeline.dialect.attributes import Requantized
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.vectors import lanes_of, part, shift_and_clamp, vector_type


def rounded(value: Any) -> Any:
    """Return the int32 nearest to a float32 expression, ties to even; it must fit.

    `llvm.lrint` becomes one conversion (`cvtps2dq` on x86); `T.nearbyint` and a cast would be two, or a call of libm.
    """
    lanes = lanes_of(value)
    suffix = "i32.f32" if lanes == 1 else f"v{lanes}i32.v{lanes}f32"
    return T.call_llvm_pure_intrin(vector_type("int32", lanes), f"llvm.lrint.{suffix}", value)


def saturate(q: Any, attrs: Requantized, isa: InstructionSet) -> Any:
    """Return `uint8(clamp(q + output_zero_point, output_min, output_max))` for an int32 expression of any length."""
    bounds = attrs.output_zero_point, attrs.output_min, attrs.output_max
    if lanes_of(q) != isa.saturate_vectors * isa.lanes:
        return shift_and_clamp(q, *bounds)
    return isa.saturate([part(q, i * isa.lanes, isa.lanes) for i in range(isa.saturate_vectors)], *bounds)
