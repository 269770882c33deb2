"""Executes a program layer by layer, for all samples at once, so that layers can still be changed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeAlias

from tvm import relax

from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.quantization.corrections.running import evaluate_all

Visit: TypeAlias = "Callable[[Binding, Sequence[Array]], Binding]"
"""Given a binding of one of our operators and its first operand for each sample, returns the binding to execute."""


def walk(program: Program, feeds: Sequence[Mapping[str, Array]], visit: Visit) -> None:
    """Execute a program, each binding for all samples before the next; see `steps`.

    Args:
        program: the int8 program.
        feeds: inputs by name, for each sample.
        visit: called with each binding; what it returns is executed in its place.

    Raises:
        NotImplementedError: the program holds an operator that has no NumPy reference.
    """
    walking = steps(program, feeds)
    step = next(walking, None)
    while step is not None:
        try:
            step = walking.send(visit(*step))
        except StopIteration:
            step = None


def steps(
    program: Program, feeds: Sequence[Mapping[str, Array]]
) -> Generator[tuple[Binding, Sequence[Array]], Binding | None, None]:
    """Yield each binding that reads a tensor, with its first operand for each sample, before executing it.

    Memory holds, for all samples, the tensors that are still to be read. A binding that is sent back is executed in
    place of the one that was yielded.

    Args:
        program: any program.
        feeds: inputs by name, for each sample.

    Raises:
        NotImplementedError: the program holds an operator that has no NumPy reference.
    """
    flow = Dataflow.of(program.module)
    last: dict[relax.Var, Binding] = {v: b for b in flow.bindings for v in b.reads}
    samples: list[dict[relax.Var, Any]] = [
        {p: feed[i.name] for p, i in zip(flow.params, program.inputs, strict=True)} for feed in feeds
    ]
    for binding in flow.bindings:
        chosen, read = binding, binding.reads
        if isinstance(binding.value, relax.Call) and read:
            chosen = (yield binding, [values[read[0]] for values in samples]) or binding
        for values, value in zip(samples, evaluate_all(chosen, samples), strict=True):
            values[binding.var] = value
            for v in set(read):
                if last[v] is binding:
                    del values[v]
