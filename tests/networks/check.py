"""Checks one network: its float program against ONNX Runtime, its int8 program against the NumPy reference."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from pipeline.api import quantize
from pipeline.compiler.build import compile_program
from pipeline.compiler.codegen import generate_code
from pipeline.compiler.lower import lower
from pipeline.importer import import_proto
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, variables
from pipeline.ir.program import Program, TensorSpec
from pipeline.kernels.machine import Machine
from pipeline.quantization.annotate import AnnotateOptions
from pipeline.reference import evaluate_binding
from pipeline.runtime.local import Runner
from pipeline.targets import load_target
from tests.kernels.instruction_sets import Runnable, runnable, runnable_names
from tests.networks.drawing import Network, run

Array = npt.NDArray[Any]
Execute = Callable[[Program, Mapping[str, Array]], list[Array]]

TOLERANCE = 1e-4
"""How far a float tensor may be from its reference, relative to the tensor's largest magnitude."""

MOVEMENTS = frozenset(
    f"relax.{name}"
    for name in (
        "concat",
        "expand_dims",
        "flatten",
        "image.resize2d",
        "permute_dims",
        "reshape",
        "squeeze",
        "strided_slice",
    )
) | {"nn.depth_to_space", "nn.max_pool2d", "nn.pad"}
"""Operators whose results are some of their inputs' values, so that they are exact in float, too."""


@dataclass(frozen=True)
class Checked:
    """What was compared.

    Attributes:
        int8_operators: how many operators of the program compute in int8.
        exact: how many tensors were equal to the bit.
        close: how many tensors, behind an operator that computes in float, were close.
        unknown: names of operators that the NumPy reference lacks; what depends on them wasn't compared.
    """

    int8_operators: int
    exact: int
    close: int
    unknown: frozenset[str]


def ways() -> tuple[str, ...]:
    """Return the ways to run a network: an instruction set's name, or "library" for what ships for this machine."""
    return (*runnable_names(), "library")


def check(network: Network, way: str) -> Checked:
    """Import, quantize and compile a network, run it in one of `ways`, and compare.

    Raises:
        AssertionError: something differs.
        PipelineError: the network was refused.
    """
    execute = _execute_library if way == "library" else functools.partial(execute_compiled, isa=runnable(way))
    *samples, feeds = network.samples(4)
    program = import_proto(network.model, {}, f"network{network.seed}", "0" * 64)
    _compare_float(program, network, feeds, execute)
    random = np.random.default_rng(network.seed)
    algorithm, symmetric = str(random.choice(["auto", "kl", "abs_max"])), bool(random.random() < 0.3)
    options = AnnotateOptions(per_channel=bool(random.random() < 0.7))
    quantized = quantize(program, samples, algorithm=algorithm, symmetric=symmetric, options=options)
    int8_operators = sum(o.precision == "int8" for o in quantized.annotation.operators)
    return replace(_compare_int8(quantized.program, feeds, execute), int8_operators=int8_operators)


def execute_compiled(program: Program, feeds: Mapping[str, Array], isa: Runnable) -> list[Array]:
    """Return the outputs of a program that is compiled for an instruction set."""
    code = generate_code(lower(program.module, isa.target, Machine(isa.isa)), isa.target)
    machine = relax.VirtualMachine(code.executable(), tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(np.ascontiguousarray(feeds[i.name])) for i in program.inputs))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [r.numpy() for r in results]


def _execute_library(program: Program, feeds: Mapping[str, Array]) -> list[Array]:
    with tempfile.TemporaryDirectory() as folder:
        library = compile_program(program, load_target("host"), Path(folder) / "network.so")
        outputs = Runner(library, num_threads=2).run(feeds)
    return [outputs[spec.name] for spec in program.outputs]


def _compare_float(program: Program, network: Network, feeds: Mapping[str, Array], execute: Execute) -> None:
    expected, actual = run(network.model, dict(feeds)), execute(program, feeds)
    for output, right, value in zip(program.outputs, expected, actual, strict=True):
        _assert_close(value, right, f"float output {output.name}")


def _assert_close(actual: Array, expected: Array, what: str) -> None:
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} instead of {expected.shape}"
    error = np.abs(actual.astype("float64") - expected).max() / max(np.abs(expected).max(), 1e-20)
    assert error <= TOLERANCE, f"{what}: relative error {error:.3g}"


def _compare_int8(program: Program, feeds: Mapping[str, Array], execute: Execute) -> Checked:
    """Compare the outputs of an int8 program.

    What passes from integer operators to float operators, or back, is made an output, too: what the integers gave is
    compared exactly, and the reference goes on from what the float operators gave, so that one rounding there doesn't
    become a step in 8 bits.
    """
    loose = _loose(program)
    flow = Dataflow.of(program.module)
    borders = [
        b.var for b in flow.bindings if any((b.var in loose) != (user.var in loose) for user in flow.users[b.var])
    ]
    observed = execute(_with_outputs(program, borders), feeds)
    results = dict(zip(flow.outputs, observed, strict=False))
    values: dict[relax.Var, Any] = {p: feeds[i.name] for p, i in zip(flow.params, program.inputs, strict=True)}
    observations = dict(zip(borders, observed[len(flow.outputs) :], strict=True))
    unknown: set[str] = set()
    exact = close = 0
    for binding in flow.bindings:
        var = binding.var
        if all(v in values for v in variables(binding.value)):
            try:
                values[var] = evaluate_binding(binding, values)
            except NotImplementedError:
                unknown.add(binding.operator)
        found = observations.get(var, results.get(var))
        if found is not None and var in values:
            if var in loose:
                _assert_close(found, values[var], f"int8 program, float tensor {var.name}")
                close += 1
            else:
                np.testing.assert_array_equal(found, values[var], err_msg=f"int8 program, tensor {var.name}")
                exact += 1
        if var in observations:
            values[var] = observations[var]
    return Checked(0, exact, close, frozenset(unknown))


def _loose(program: Program) -> dict[relax.Var, Binding]:
    """Return the tensors that were computed in float, and what only moves their values."""
    loose: dict[relax.Var, Binding] = {}
    for binding in Dataflow.of(program.module).bindings:
        moved = binding.operator in MOVEMENTS or not isinstance(binding.value, relax.Call)
        integer = binding.operator.startswith("qnn.") or moved
        if not integer or (moved and any(v in loose for v in variables(binding.value))):
            loose[binding.var] = binding
    return loose


def _with_outputs(program: Program, more: list[relax.Var]) -> Program:
    if not more:
        return program
    flow, builder = Dataflow.of(program.module), DataflowBuilder(program.module)
    for binding in flow.bindings:
        builder.copy(binding)
    specs = tuple(TensorSpec(f"{i}:{v.name}", tensor_type(v).shape, tensor_type(v).dtype) for i, v in enumerate(more))
    module = builder.finish([builder.replaced(v) for v in (*flow.outputs, *more)])
    return replace(program, module=module, outputs=program.outputs + specs)
