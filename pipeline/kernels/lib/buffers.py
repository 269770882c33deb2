"""Buffers in registers and on the stack, and the ways to memory that are no plain load or store."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.vectors import span


def register_buffer(size: int, dtype: str) -> Any:
    """Declare a buffer that LLVM keeps in registers, if it's only accessed at constant indices.

    Without the annotation, TVM takes buffers in parallel loops from the heap, in each iteration.
    """
    return T.alloc_buffer((size,), dtype, scope="local", annotations={"disable_lower_builtin": True})


def stack_buffer(size: int, dtype: str) -> Any:
    """Declare a buffer for any indices, on the stack.

    By a second name, TVM doesn't look for what of it is used, to make it smaller, and sometimes fail.
    """
    return T.decl_buffer((size,), dtype, data=register_buffer(size, dtype).data)


def view(buffer: Any, start: Any, size: int) -> Any:
    """Declare a part of a buffer as a buffer of its own.

    Places in it that are constants become offsets in loads and stores. If LLVM sees one sum with `start`, whose lowest
    bits are zero, it makes an `or` of that, computes each address, and loads no pairs.
    """
    first = T.bind(T.address_of(buffer[start]))
    return T.decl_buffer((size,), str(buffer.dtype), data=first)


def store_narrow(buffer: Any, start: Any, values: Any, lanes: int, count: int) -> None:
    """Store the first `count` of a vector's lanes: where there is no room for all, and none to overlap."""
    few = register_buffer(lanes, str(buffer.dtype))
    T.buffer_store(few, values, [span(0, lanes)])
    for lane in range(count):
        T.buffer_store(buffer, few[lane], [start + lane])


def prefetch(buffer: Any, offset: Any, level: int) -> None:
    """Have a line brought into the first or second level of the caches."""
    for_reading, locality, data = T.int32(0), T.int32(4 - level), T.int32(1)
    at = buffer.access_ptr("r", offset=offset)
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", at, for_reading, locality, data))
