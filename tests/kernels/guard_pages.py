"""Runs kernels on inputs that end right before memory without access: `python -m tests.kernels.guard_pages ISA`.

It is a process of its own, because reading or writing past the end kills it.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

import pipeline.kernels  # noqa: F401
from pipeline.reference.operators import evaluate
from tests.kernels.convolutions import Convolution
from tests.kernels.harness import build, generate, make_operation
from tests.kernels.instruction_sets import runnable

CASES = (
    Convolution(1, 8, 8, 3, 16, (3, 3)),
    Convolution(1, 8, 8, 3, 32, (1, 3), (1, 2)),
    Convolution(1, 4, 16, 2, 1),
    Convolution(2, 4, 8, 30, 8),
    Convolution(1, 2, 32, 7, 20, (2, 1)),
    Convolution(1, 8, 8, 6, 3, (3, 3), (1, 1), (2, 2), groups=4),
    Convolution(1, 8, 8, 1, 1, (3, 3), groups=24),
    Convolution(1, 8, 16, 1, 1, (5, 5), groups=40),
    Convolution(1, 8, 8, 1, 1, (3, 3), (2, 2), groups=72),
    Convolution(1, 6, 32, 1, 1, (3, 3), groups=3),
    Convolution(1, 9, 9, 64, 20, (3, 3)),
    Convolution(1, 8, 16, 23, 16, (3, 3)),
    Convolution(1, 64, 29, 9, 16, (3, 7), (1, 2)),
    Convolution(1, 64, 30, 9, 16, (3, 7), (1, 2)),
)
"""Inputs are multiples of 64 bytes, which is how TVM aligns tensors; rows, channels and segments are odd."""


def guarded(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Return an array that is followed by a page without access."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + pages * mmap.PAGESIZE), mmap.PAGESIZE, 0) != 0:
        raise OSError("mprotect failed")
    return np.frombuffer(memory, dtype, math.prod(shape), pages * mmap.PAGESIZE - size).reshape(shape)


def run(isa_name: str, case: Convolution) -> None:
    """Run one convolution with a guarded input; its result still has to be right."""
    attrs, arguments = case.integer(seed=0)
    operation = make_operation(attrs, *arguments)
    machine = runnable(isa_name)
    kernel = generate(operation, machine.isa)
    shapes = [tuple(int(d) for d in p.shape) for p in kernel.func.params]
    x = guarded(shapes[0], "uint8")
    x[...] = arguments[0].reshape(shapes[0])
    constants = [a for a in kernel.arguments if not isinstance(a, int)]
    buffers = [tvm.runtime.from_dlpack(x), *(tvm.runtime.tensor(c) for c in constants)]
    result = tvm.runtime.tensor(np.zeros(shapes[-1], operation.output.dtype))
    build(kernel.func, machine.target)["main"](*buffers, result)
    np.testing.assert_array_equal(result.numpy().reshape(operation.output.shape), evaluate(attrs, *arguments))


def main(what: str) -> None:
    """Run all cases, or touch the guard page if `what` is "overrun"."""
    if what == "overrun":
        array = guarded((64,), "uint8")
        ctypes.string_at(array.ctypes.data, 65)
        return
    for case in CASES:
        run(what, case)


if __name__ == "__main__":
    main(sys.argv[1])
