"""Runs the examples on tensors that end right before memory without access: `python -m tests.kernels.guarded_examples ISA`.

It is a process of its own, because reading or writing past the end kills it.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm

from pipeline.kernels.isa import instruction_set
from pipeline.reference.operators import evaluate
from tests.kernels.examples import Example, examples
from tests.kernels.guard_pages import guarded
from tests.kernels.harness import build, generate, host_target, make_operation


def run(isa_name: str, example: Example) -> None:
    """Run one example; its result still has to be right."""
    operation = make_operation(example.attrs, *example.arguments)
    kernel = generate(operation, instruction_set(isa_name))
    shapes = [tuple(int(d) for d in p.shape) for p in kernel.func.params]
    values = [example.arguments[a] if isinstance(a, int) else a for a in kernel.arguments]
    arrays = []
    for value, shape in zip(values, shapes[:-1], strict=True):
        aligned = value.nbytes % 64 == 0
        array = guarded(shape, str(value.dtype)) if aligned else np.empty(shape, value.dtype)
        array[...] = value.reshape(shape)
        arrays.append(tvm.runtime.from_dlpack(array) if aligned else tvm.runtime.tensor(array))
    result = guarded(shapes[-1], operation.output.dtype)
    build(kernel, host_target(isa_name))["main"](*arrays, tvm.runtime.from_dlpack(result))
    np.testing.assert_array_equal(result.reshape(operation.output.shape), evaluate(example.attrs, *example.arguments))


if __name__ == "__main__":
    for case in examples().values():
        run(sys.argv[1], case)
