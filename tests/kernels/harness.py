"""Checks kernels, each by itself: generated, compiled for an instruction set, called on NumPy arrays, compared.

Tests ask for checks as if kernels ran at once. But compiling is what takes their time, and kernels that are compiled
together take half of it. So conftest.py collects a test's checks, and makes them when the test has come to its end. If
one fails, the test is done again with each check made on the spot: then Hypothesis finds the example, makes it as small
as it can, and prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import tvm

from pipeline.ir.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import Operator
from tests.kernels.execution import Array, Call, build
from tests.kernels.instruction_sets import Runnable, runnable

MOST_TOGETHER = 64
"""How many kernels are compiled together at most: their arguments wait in memory."""


def make_operation(operator: Operator, *arguments: Array, activations: int | Collection[int] = 1) -> Operation:
    """Describe an operator on these arguments.

    Args:
        operator: which operator.
        arguments: all of them.
        activations: which of them are known at run time only: the first ones, or those at these positions.
    """
    varying = range(activations) if isinstance(activations, int) else activations
    inputs = tuple(TensorType(a.shape, str(a.dtype)) for a in arguments)
    constants = {i: a for i, a in enumerate(arguments) if i not in varying}
    return Operation(operator, inputs, operator.infer(*inputs), constants)


def generate(operation: Operation, isa: InstructionSet) -> Kernel:
    """Return the kernel that the registry selects, for a machine with common caches."""
    machine = Machine(isa)
    return registry.select(operation, machine).generate(operation, machine)


def assembly(kernel: Kernel, target: tvm.target.Target) -> str:
    """Return the assembly text of a kernel, for any target that LLVM knows."""
    return str(build([kernel.func], target).inspect_source("s"))


def call(operation: Operation, kernel: Kernel, *arguments: Array) -> Call:
    """Return the call of an operation's kernel on all of the operation's arguments; the result is zeros till then."""
    values = [arguments[a] if isinstance(a, int) else a for a in kernel.arguments]
    values.append(np.zeros(operation.output.shape, operation.output.dtype))
    shapes = [tuple(int(d) for d in p.shape) for p in kernel.func.params]
    return Call(kernel.func, tuple(v.reshape(shape) for v, shape in zip(values, shapes, strict=True)))


Compare = Callable[[Array, Array], None]
"""Asserts that a result is what was expected."""


@dataclass(frozen=True)
class Check:
    """One operation, what its kernel must compute, and how that is compared.

    Attributes:
        machine: what runs the kernel.
        operation: what to compute.
        call: of the kernel.
        expected: the result, in its own shape.
        compare: called on result and `expected`.
    """

    machine: Runnable
    operation: Operation
    call: Call
    expected: Array
    compare: Compare

    def failure(self, result: Array) -> str | None:
        """Return what is wrong with a result of the kernel."""
        try:
            self.compare(result.reshape(self.operation.output.shape), self.expected)
        except AssertionError as error:
            types = ", ".join(f"{t.dtype}{list(t.shape)}" for t in self.operation.inputs)
            return f"{self.operation.operator}\non {types}, {self.machine.isa.name}:{error}"
        return None


class Checks:
    """Checks that wait to be made."""

    def __init__(self) -> None:
        self._waiting: list[Check] = []
        self._failures: list[str] = []

    def add(self, new: Check) -> None:
        self._waiting.append(new)
        if len(self._waiting) == MOST_TOGETHER:
            self._make_waiting()

    def make(self) -> None:
        """Make all, those for one machine together.

        Raises:
            AssertionError: some failed.
            Exception: there was but one, and it couldn't be made.
        """
        self._make_waiting()
        failures, self._failures = self._failures, []
        assert not failures, "\n\n".join(failures)

    def _make_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for machine in {id(c.machine): c.machine for c in waiting}.values():
            same = [c for c in waiting if c.machine is machine]
            try:
                results = machine.execute([c.call for c in same], machine.target)
            except Exception as error:  # Whatever it is, the test that is done again says which check it comes from.
                if len(waiting) == 1:
                    raise
                self._failures.append(f"{len(same)} kernels for {machine.isa.name}: {error}")
            else:
                failures = [c.failure(result) for c, result in zip(same, results, strict=True)]
                self._failures += [failure for failure in failures if failure is not None]


_collected: Checks | None = None
"""What `check` adds to; None where it makes checks itself."""


@contextmanager
def collected_checks() -> Iterator[Checks]:
    """Collect the checks that are asked for inside; it's for the caller to make them."""
    global _collected
    outer, _collected = _collected, Checks()
    try:
        yield _collected
    finally:
        _collected = outer


def check(
    where: str | Runnable, operation: Operation, arguments: Sequence[Array], expected: Array, compare: Compare
) -> None:
    """Assert that the selected kernel's result is as expected: at once, or later within `collected_checks`.

    Args:
        where: the instruction set, or what runs it; the test is skipped where this machine can't.
        operation: what to compute.
        arguments: all of its arguments.
        expected: the result.
        compare: called on the kernel's result and `expected`.
    """
    machine = runnable(where) if isinstance(where, str) else where
    kernel_call = call(operation, generate(operation, machine.isa), *arguments)
    checks = Checks() if _collected is None else _collected
    checks.add(Check(machine, operation, kernel_call, expected, compare))
    if _collected is None:
        checks.make()
