"""Runs kernels on tensors that end right before memory without access: `python -m tests.kernels.run_guarded ISA`.

It is a process of its own, because reading or writing past the end kills it.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import tvm

from tests.kernels.examples import examples_for
from tests.kernels.execution import build
from tests.kernels.guard_pages import guarded, place
from tests.kernels.harness import call, generate, make_operation
from tests.kernels.instruction_sets import runnable


def run(isa_name: str) -> None:
    """Run all examples; their results still have to be right."""
    machine = runnable(isa_name)
    cases, calls = examples_for(machine.isa), []
    for case in cases.values():
        operation = make_operation(case.operator, *case.arguments, activations=case.activations)
        calls.append(call(operation, generate(operation, machine.isa), *case.arguments))
    module = build([c.func for c in calls], machine.target)
    for i, (name, prepared) in enumerate(zip(cases, calls, strict=True)):
        arrays = [place(a) for a in prepared.arguments]
        module[f"kernel{i}"](*(tvm.runtime.from_dlpack(a) for a in arrays))
        expected = cases[name].operator.evaluate(*cases[name].arguments)
        np.testing.assert_allclose(arrays[-1].reshape(expected.shape), expected, cases[name].rtol, err_msg=name)


def main(what: str) -> None:
    """Run all examples, or touch the guard page if `what` is "overrun"."""
    if what == "overrun":
        ctypes.string_at(guarded((64,), "uint8").ctypes.data, 65)
    else:
        run(what)


if __name__ == "__main__":
    main(sys.argv[1])
