"""Loads of registers that TIR can't express, as functions in LLVM's language that kernels import.

LLVM's intrinsics for `ld1` of several registers return a structure. The next address goes through an instruction that
LLVM knows nothing of, an empty one: otherwise it would compute all addresses from the first, each by an addition, where
the loads themselves could add. In the same way, `held` keeps it from loading a register's lanes again, one by one, and
`unknown` from unrolling a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.modular import modular_functions
from pipeline.kernels.lib.vectors import part

TOGETHER = 4
"""Most registers that one instruction loads."""

REGISTER_BYTES = 16

_AWAITED = (1, 4, 8)
"""Of so many vectors, one instruction can wait for the results."""

_ELEMENTS = {
    "int8": ("i8", "v16i8"),
    "int16": ("i16", "v8i16"),
    "int32": ("i32", "v4i32"),
    "float32": ("float", "v4f32"),
}
"""LLVM's names of a dtype, and of a register of it."""


_IN_PAIRS = ("int32",)
"""What is loaded by instructions for two registers, which may be any two: sums, as they live through loops."""


def load_functions() -> Any:
    """Return a context for statements in which the others of this module are used."""
    loads = (_load(dtype, count) for dtype in _ELEMENTS for count in range(1, TOGETHER + 1))
    others = _OTHERS, modular_functions(REGISTER_BYTES // 4)
    return T.attr(T.int32(0), "pragma_import_llvm", "\n".join([*loads, *map(_after, _AWAITED), *others]))


class ArmStream:
    """The registers of a buffer from an index on, one after another, as loops come to take them."""

    def __init__(self, buffer: Any, start: Any) -> None:
        self._dtype = str(buffer.dtype)
        self._address = register_buffer(1, "int64")
        address = T.call_extern("int64", "pipeline_address", buffer.access_ptr("r", offset=start))
        T.buffer_store(self._address, address, [0])

    def take(self, count: int, distance: Any = None) -> Iterator[Any]:
        """Yield the next registers, loaded four by four; all of them must be taken before there are others.

        Args:
            count: how many; at most four, if there is a distance.
            distance: int64 TIR expression: bytes from the first one to what is taken next; None for what lies behind
                the last one. Of a number that it knows, LLVM would make an addition.
        """
        lanes = _lanes(self._dtype)
        for first in range(0, count, TOGETHER):
            together = min(TOGETHER, count - first)
            name, vectors = f"pipeline_load_{self._dtype}_{together}", f"{self._dtype}x{together * lanes}"
            address = T.bind(self._address[0])
            loaded = T.bind(T.call_extern(vectors, name, address))
            step = T.int64(together * REGISTER_BYTES) if distance is None else distance
            T.buffer_store(self._address, T.call_extern("int64", "pipeline_behind", address, step), [0])
            yield from (part(loaded, i * lanes, lanes) for i in range(together))

    def wait(self, vectors: Sequence[Any]) -> None:
        """Have LLVM load what is taken next after int32 vectors of a register have been computed."""
        left = list(vectors)
        while left:
            together = max(count for count in _AWAITED if count <= len(left))
            address = T.call_extern("int64", f"pipeline_after_{together}", self._address[0], *left[:together])
            T.buffer_store(self._address, address, [0])
            left = left[together:]


def held(vector: Any) -> Any:
    """Return a vector that was loaded, to be used from where it is, if it is a register of integers."""
    register, dtype = f"int8x{REGISTER_BYTES}", str(vector.ty.dtype)
    if dtype == register:
        return T.bind(T.call_extern(register, "pipeline_held", vector))
    if dtype == f"int16x{REGISTER_BYTES // 2}":
        return T.reinterpret(dtype, T.bind(T.call_extern(register, "pipeline_held", T.reinterpret(register, vector))))
    return vector


def unknown(count: int) -> Any:
    """Return a number that LLVM doesn't know."""
    return T.bind(T.call_extern("int32", "pipeline_unknown", T.int32(count)))


def _lanes(dtype: str) -> int:
    return REGISTER_BYTES // np.dtype(dtype).itemsize


def _load(dtype: str, count: int) -> str:
    (element, suffix), lanes = _ELEMENTS[dtype], _lanes(dtype)
    register, result = f"<{lanes} x {element}>", f"<{count * lanes} x {element}>"
    head = f"define {result} @pipeline_load_{dtype}_{count}(i64 %a) {{\n%p = inttoptr i64 %a to ptr"
    if count == 1 or dtype in _IN_PAIRS:
        return "\n".join([head, f"%r = load {result}, ptr %p, align 1", f"ret {result} %r", "}"])
    load, several = f"@llvm.aarch64.neon.ld1x{count}.{suffix}.p0", f"{{{', '.join([register] * count)}}}"
    body = [f"%s = call {several} {load}(ptr %p)"]
    for i in range(count):
        body += [f"%v{i} = extractvalue {several} %s, {i}"]
        # All vectors of a shuffle have the same length.
        body += [f"%w{i} = {_shuffle(register, f'%v{i}', 'poison', range(lanes), count * lanes)}"]
    total = "%w0"
    for i in range(1, count):
        order = [*range(i * lanes), *range(count * lanes, (count + 1) * lanes)]
        body += [f"%t{i} = {_shuffle(result, total, f'%w{i}', order, count * lanes)}"]
        total = f"%t{i}"
    return "\n".join([f"declare {several} {load}(ptr)", head, *body, f"ret {result} {total}", "}"])


def _shuffle(vector: str, left: str, right: str, order: Sequence[int], length: int) -> str:
    places = [f"i32 {i}" for i in order] + ["i32 poison"] * (length - len(order))
    return f"shufflevector {vector} {left}, {vector} {right}, <{length} x i32> <{', '.join(places)}>"


def _after(count: int) -> str:
    vectors = [f"<4 x i32> %v{i}" for i in range(count)]
    return f"""define i64 @pipeline_after_{count}(i64 %a, {", ".join(vectors)}) {{
%r = call i64 asm "", "=r,0{",w" * count}"(i64 %a, {", ".join(vectors)})
ret i64 %r
}}"""


_OTHERS = f"""define i64 @pipeline_address(ptr %p) {{
%r = ptrtoint ptr %p to i64
ret i64 %r
}}
define i64 @pipeline_behind(i64 %a, i64 %n) {{
%b = add i64 %a, %n
%r = call i64 asm "", "=r,0"(i64 %b)
ret i64 %r
}}
define i32 @pipeline_unknown(i32 %n) {{
%r = call i32 asm "", "=r,0"(i32 %n)
ret i32 %r
}}
define <{REGISTER_BYTES} x i8> @pipeline_held(<{REGISTER_BYTES} x i8> %v) {{
%r = call <{REGISTER_BYTES} x i8> asm "", "=w,0"(<{REGISTER_BYTES} x i8> %v)
ret <{REGISTER_BYTES} x i8> %r
}}"""
