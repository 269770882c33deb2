"""From int32 accumulators back to 8 bits, or to float32: exact, and the same on every CPU.

There is one float multiply, and what follows it is a rounding, never an addition: LLVM may contract a multiply and an
add into one instruction with a different result. Rounding is to nearest, ties to even, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from pipeline.dialect.attributes import Requantized
from pipeline.kernels.vectors import lanes_of, splat, vector_type


def rounded(value: Any) -> Any:
    """Return the int32 nearest to a float32 expression, ties to even; it must fit.

    `llvm.lrint` becomes one conversion (`cvtps2dq` on x86); `T.nearbyint` and a cast would be two, or a call of libm.
    """
    lanes = lanes_of(value)
    suffix = "i32.f32" if lanes == 1 else f"v{lanes}i32.v{lanes}f32"
    return T.call_llvm_pure_intrin(vector_type("int32", lanes), f"llvm.lrint.{suffix}", value)


def saturate(q: Any, attrs: Requantized) -> Any:
    """Return `uint8(clamp(q + output_zero_point, output_min, output_max))` for an int32 expression."""
    lanes = lanes_of(q)
    shifted = q + splat(T.int32(attrs.output_zero_point), lanes)
    low, high = (splat(T.int32(v), lanes) for v in (attrs.output_min, attrs.output_max))
    return T.cast(T.max(T.min(shifted, high), low), vector_type("uint8", lanes))


def requantize(attrs: Requantized) -> Callable[[Any, Any], Any]:
    """Return the function from (accumulator, multiplier) to uint8."""

    def finish(acc: Any, multiplier: Any) -> Any:
        return saturate(rounded(dequantize_accumulator(acc, multiplier)), attrs)

    return finish


def dequantize_accumulator(acc: Any, multiplier: Any) -> Any:
    """Return `float32(acc) * multiplier`."""
    return T.cast(acc, vector_type("float32", lanes_of(acc))) * multiplier
