"""Functions that make TIR vector expressions; a vector of one lane is a scalar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script import tirx as T


def lanes_of(value: Any) -> int:
    """Return how many values a TIR expression holds."""
    dtype = str(value.ty.dtype)
    return int(dtype.split("x")[1]) if "x" in dtype else 1


def vector_type(dtype: str, lanes: int) -> str:
    """Return the name of a vector type; that of the scalar for one lane."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: Any, lanes: int) -> Any:
    """Return a value in each of `lanes` lanes."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def span(start: Any, length: int) -> Any:
    """Return the index of `length` neighbouring elements of a buffer."""
    return start if length == 1 else T.ramp(start, 1, length)


def clip(value: Any, low: float | None, high: float | None) -> Any:
    """Return a float32 TIR expression limited to [low, high]; None is no limit, and NaN stays NaN."""
    if low is not None:
        value = larger(value, splat(T.float32(low), lanes_of(value)))
    return value if high is None else smaller(value, splat(T.float32(high), lanes_of(value)))


def larger(value: Any, limit: Any) -> Any:
    """Return the larger one of two float32 TIR expressions, `value` if that is NaN.

    It is a comparison, which is false for NaN, and a selection; CPUs have one instruction for both together.
    """
    return T.Select(limit > value, limit, value)


def smaller(value: Any, limit: Any) -> Any:
    """Return the smaller one of two float32 TIR expressions, `value` if that is NaN; see `larger`."""
    return T.Select(limit < value, limit, value)


def with_other_sign(value: Any) -> Any:
    """Return uint8 minus 128 as int8, or int8 plus 128 as uint8: bytes, as a TIR expression, with a bit flipped."""
    lanes, is_signed = lanes_of(value), str(value.ty.dtype).startswith("int8")
    bits = T.reinterpret(vector_type("uint8", lanes), value) if is_signed else value
    flipped = T.bitwise_xor(bits, splat(T.uint8(0x80), lanes))
    return flipped if is_signed else T.reinterpret(vector_type("int8", lanes), flipped)


def as_stored(value: Any, dtype: str) -> Any:
    """Return a TIR expression of uint8 as it is stored in `dtype`: minus 128, if that is int8."""
    return with_other_sign(value) if dtype == "int8" else value


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:
    """Return `a * b + c` of float32 TIR expressions, rounded once, on any CPU."""
    lanes = lanes_of(a)
    suffix = "f32" if lanes == 1 else f"v{lanes}f32"
    return T.call_llvm_pure_intrin(vector_type("float32", lanes), f"llvm.fma.{suffix}", a, b, c)


def part(value: Any, start: int, length: int) -> Any:
    """Return `length` neighbouring lanes of a TIR expression.

    Four bytes are extracted as one lane of 32 bits, as LLVM would widen vectors that are shorter than a register.
    """
    lanes = lanes_of(value)
    if length == lanes:
        return value
    if str(value.ty.dtype) == f"uint8x{lanes}" and length == 4 and start % 4 == lanes % 4 == 0:
        dwords = T.reinterpret(vector_type("int32", lanes // 4), value)
        return T.reinterpret("uint8x4", T.Shuffle([dwords], [start // 4]))
    return T.Shuffle([value], list(range(start, start + length)))


def joined(values: Sequence[Any]) -> Any:
    """Return the lanes of several TIR expressions of one length, one after another, as one."""
    if len(values) == 1:
        return values[0]
    return T.Shuffle(list(values), list(range(sum(lanes_of(v) for v in values))))


def repeated(value: Any, length: int) -> Any:
    """Return a vector of `length` lanes that begins with a shorter one's; what is in the other lanes doesn't matter."""
    return part(joined([value] * -(-length // lanes_of(value))), 0, length)


def interleave(left: Any, right: Any, dtype: str, lanes: int) -> tuple[Any, Any]:
    """Interleave the values of two vectors, first the lower, then the upper halves of each 128 bits, as x86 does it.

    Args:
        left: a vector of any type, taken for `lanes` values of `dtype`.
        right: another.
        dtype: of the values: uint8 or uint16.
        lanes: number of values in each vector.
    """
    vector, per_part = f"{dtype}x{lanes}", 128 // int(dtype.removeprefix("uint"))
    operands = [T.reinterpret(vector, left), T.reinterpret(vector, right)]
    halves = []
    for half in range(2):
        first = [part + half * per_part // 2 + i for part in range(0, lanes, per_part) for i in range(per_part // 2)]
        halves.append(T.Shuffle(operands, [index for f in first for index in (f, lanes + f)]))
    return halves[0], halves[1]


def shift_and_clamp(value: Any, zero_point: int, low: int, high: int, dtype: str = "uint8") -> Any:
    """Return `dtype(clamp(value + zero_point, low, high))` for an int32 TIR expression."""
    lanes = lanes_of(value)
    shifted = value + splat(T.int32(zero_point), lanes)
    clamped = T.max(T.min(shifted, splat(T.int32(high), lanes)), splat(T.int32(low), lanes))
    return T.cast(clamped, vector_type(dtype, lanes))
