"""Runs the examples on tensors that end right before memory without access.

Call it as `python -m tests.kernels.guarded_examples ISA`. It is a process of its own, because reading or writing past
the end kills it.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm

from pipeline.reference.operators import evaluate
from tests.kernels.examples import Example, examples
from tests.kernels.guard_pages import guarded
from tests.kernels.harness import build, generate, make_operation
from tests.kernels.instruction_sets import runnable
from tests.kernels.tensors import Array

ALIGNMENT = 64
"""Bytes: what TVM's tensors begin at a multiple of."""


def aligned_copy(value: Array) -> Array:
    """Return a copy that begins at a multiple of `ALIGNMENT`."""
    memory = np.empty(value.nbytes + ALIGNMENT, "uint8")
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def place(value: Array) -> Array:
    """Return a copy at the end of a page, or anywhere if it wouldn't be aligned there."""
    if value.nbytes % ALIGNMENT:
        return aligned_copy(value)
    copy = guarded(value.shape, str(value.dtype))
    copy[...] = value
    return copy


def run(isa_name: str, example: Example) -> None:
    """Run one example; its result still has to be right."""
    operation = make_operation(example.attrs, *example.arguments)
    machine = runnable(isa_name)
    kernel = generate(operation, machine.isa)
    *inputs, output = (tuple(int(d) for d in p.shape) for p in kernel.func.params)
    values = [example.arguments[a] if isinstance(a, int) else a for a in kernel.arguments]
    arrays = [place(v.reshape(shape)) for v, shape in zip(values, inputs, strict=True)]
    arrays.append(place(np.zeros(output, operation.output.dtype)))
    build(kernel.func, machine.target)["main"](*(tvm.runtime.from_dlpack(a) for a in arrays))
    result = arrays[-1].reshape(operation.output.shape)
    np.testing.assert_array_equal(result, evaluate(example.attrs, *example.arguments))


if __name__ == "__main__":
    for case in examples().values():
        run(sys.argv[1], case)
