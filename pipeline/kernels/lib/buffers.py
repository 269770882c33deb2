"""Buffers in registers and on the stack, and memory accesses that aren't plain loads or stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.vectors import lanes_of, part, span


def register_buffer(size: int, dtype: str) -> Any:
    """Declare a buffer that LLVM keeps in registers, if all accesses have constant indices.

    Without the annotation, TVM would allocate buffers in parallel loops on the heap, in each iteration.
    """
    return T.alloc_buffer((size,), dtype, scope="local", annotations={"disable_lower_builtin": True})


def stack_buffer(size: int, dtype: str) -> Any:
    """Declare a buffer on the stack, for any indices.

    The buffer is a second one that refers to the first. Otherwise TVM would try to make it smaller by analysing which
    part is used, which sometimes fails.
    """
    return T.decl_buffer((size,), dtype, data=register_buffer(size, dtype).data)


def workspace(size: int, dtype: str) -> Any:
    """Declare a buffer on the heap, from the pool that each thread has."""
    return T.alloc_buffer((size,), dtype, scope="global")


def folded(value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Return all lanes of a vector combined to one value, half with half at each step; there are 2**n lanes.

    Each half is in a register of its own: an expression of all steps would hold the vector once for each time that
    `combine` names an operand, to the power of the steps, and TVM's passes visit every copy.
    """
    while (lanes := lanes_of(value)) > 1:
        half = lanes // 2
        left, right = (_in_register(part(value, start, half)) for start in (0, half))
        value = combine(left, right)
    return value


def _in_register(value: Any) -> Any:
    lanes = lanes_of(value)
    register, everything = register_buffer(lanes, str(value.ty.dtype).removesuffix(f"x{lanes}")), span(0, lanes)
    T.buffer_store(register, value, [everything])
    return register[everything]


def view(buffer: Any, start: Any, size: int) -> Any:
    """Declare a part of a buffer as a buffer of its own.

    Then constant indices become offsets in load and store instructions. If indices were sums with `start`, whose lowest
    bits are zero, LLVM would turn each sum into an `or`, compute each address, and not load pairs of registers.
    """
    first = T.bind(T.address_of(buffer[start]))
    return T.decl_buffer((size,), str(buffer.dtype), data=first)


class VectorsInOrder:
    """The vectors of a buffer from an index on, one after another, as loops come to take them: plain loads."""

    def __init__(self, buffer: Any, start: Any, vector_bytes: int) -> None:
        self._buffer, self._item_bytes = buffer, np.dtype(str(buffer.dtype)).itemsize
        self._lanes = vector_bytes // self._item_bytes
        self._next = register_buffer(1, "int32")
        T.buffer_store(self._next, start, [0])

    def take(self, count: int, distance: Any = None) -> Iterator[Any]:
        """Yield the next vectors; all of them must be taken before there are others.

        Args:
            count: how many.
            distance: int64 TIR expression: bytes from the first one to what is taken next; None for what lies behind
                the last one.
        """
        first = T.bind(self._next[0])
        behind = count * self._lanes if distance is None else T.cast(distance // self._item_bytes, "int32")
        T.buffer_store(self._next, first + behind, [0])
        for i in range(count):
            yield T.bind(self._buffer[span(first + i * self._lanes, self._lanes)])

    def wait(self, vectors: Sequence[Any]) -> None:
        """Do nothing: what order loads are in is left to LLVM."""


def store_narrow(buffer: Any, start: Any, values: Any, lanes: int, count: int) -> None:
    """Store the first `count` lanes of a vector, where the other lanes would overwrite something."""
    few = register_buffer(lanes, str(buffer.dtype))
    T.buffer_store(few, values, [span(0, lanes)])
    for lane in range(count):
        T.buffer_store(buffer, few[lane], [start + lane])


def prefetch(buffer: Any, offset: Any, level: int) -> None:
    """Prefetch a cache line into the first-level or second-level cache."""
    for_reading, locality, data = T.int32(0), T.int32(4 - level), T.int32(1)
    at = buffer.access_ptr("r", offset=offset)
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", at, for_reading, locality, data))
