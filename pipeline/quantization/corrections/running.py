"""Runs int8 programs and single operators of them in NumPy, or compiled where that takes less time.

The reference sums some 2 * 10**9 products a second; compiling takes some hundredths of a second for each operator, and
little more than nothing after that. Operators on integers give the same bytes either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax

from pipeline.compiler.codegen import concurrently
from pipeline.compiler.execute import library_executor, operator_executor
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.ops import multiply_adds
from pipeline.reference import evaluate_binding, execute

Run = Callable[[Mapping[str, Array]], dict[str, Array]]

PRODUCTS = 2 * 10**7
"""From so many products for each operator on, a program is compiled."""

PRODUCTS_ALONE = 10**8
"""From so many products on, an operator is compiled by itself."""

PRODUCTS_IN_ORDER = 10**6
"""From so many products on, an operator's samples are computed by several threads."""

MOST_THREADS = 4
"""How many, at the most."""


def runner(program: Program, count: int) -> Run:
    """Return a function that runs a program.

    Args:
        program: any program.
        count: how many batches it is going to be run on.
    """
    bindings = Dataflow.of(program.module).bindings
    if count * sum(map(multiply_adds, bindings)) >= len(bindings) * PRODUCTS:
        return library_executor(program).run
    compiled: list[Run] = []

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not compiled:
            try:
                return execute(program, feeds)
            except NotImplementedError:
                compiled.append(library_executor(program).run)
        return compiled[0](feeds)

    return run


def evaluate_all(binding: Binding, samples: Sequence[Mapping[relax.Var, Any]]) -> list[Any]:
    """Return the value of one binding for each sample, given the values of the variables that it reads.

    Raises:
        NotImplementedError: the operator has no NumPy reference.
    """
    products = len(samples) * multiply_adds(binding)
    if products < PRODUCTS_IN_ORDER:
        return [evaluate_binding(binding, values) for values in samples]
    if products < PRODUCTS_ALONE:
        # Each thread holds intermediate results, so there are few.
        return list(concurrently(lambda values: evaluate_binding(binding, values), samples, most=MOST_THREADS))
    run, read = operator_executor(binding).run, dict.fromkeys(binding.reads)
    return [next(iter(run({str(v.name): values[v] for v in read}).values())) for values in samples]
