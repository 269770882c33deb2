"""Which tensors of a program are exact, so that a library has to give the very bytes that the reference gives.

Integer operators are exact, and so is what moves values or quantizes inputs. Float arithmetic is not: compilers may sum
in another order. A tensor that depends on it is compared within a tolerance. Where such a tensor is quantized again, a
value halfway between two quantized values may be rounded to either, and everything computed from it differs as well.
So the reference computes what follows from the quantized values that the library got there: they are extra outputs of
the library, and extra inputs of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, variables
from pipeline.ir.program import Program, TensorSpec
from pipeline.reference import execute

Array = npt.NDArray[Any]

MOVES = frozenset(
    {"nn.depth_to_space", "nn.max_pool2d", "nn.pad"}
    | {
        f"relax.{n}"
        for n in ("concat", "expand_dims", "flatten", "permute_dims", "reshape", "squeeze", "strided_slice")
    }
)
"""Operators that compute no float: they pick or move values."""

ROUNDING = 1
"""How far a quantized value may be from the reference's, where the result of float arithmetic is quantized."""


@dataclass(frozen=True)
class Observed:
    """A program, what of it can be compared, and how.

    Attributes:
        program: the program, with more outputs where float arithmetic begins and ends: the exact tensors that it reads,
            and the quantized values of its results.
        reference: the same program, in which the quantized values of float results are inputs; what it computes for
            them itself is an output, "NAME computed".
        exact: names of outputs whose bytes must be the reference's.
        entries: names of the quantized tensors that come from float arithmetic.
    """

    program: Program
    reference: Program
    exact: tuple[str, ...]
    entries: tuple[str, ...]

    def check(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
        """Assert that a library's outputs for an input are those of the reference.

        Args:
            feeds: the input.
            outputs: of the observed program, compiled.
            expected: the reference's outputs if it needs none of the library's quantized values.
        """
        if self.entries:
            expected = execute(self.reference, {**feeds, **{name: outputs[name] for name in self.entries}})
        for name in self.exact:
            np.testing.assert_array_equal(outputs[name], expected[name], err_msg=name)
        for name in self.entries:
            apart = np.abs(outputs[name].astype("int32") - expected[f"{name} computed"])
            assert apart.max() <= ROUNDING, name
        for name in set(outputs) - set(self.exact) - set(self.entries):
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def observe(program: Program) -> Observed:
    """Return a program with all outputs that are needed to compare it with the reference."""
    flow = Dataflow.of(program.module)
    inexact: set[relax.Var] = set()
    entries: list[relax.Var] = []
    frontier: dict[relax.Var, None] = {}
    for binding in flow.bindings:
        read = [v for v in dict.fromkeys(variables(binding.value)) if v in flow.producers]
        if _computes_floats(binding):
            inexact.add(binding.var)
            frontier |= {v: None for v in read if v not in inexact}
        elif inexact.intersection(read):
            if binding.operator == "qnn.quantize":
                entries.append(binding.var)
            else:
                inexact.add(binding.var)
    names = {v: spec.name for v, spec in zip(flow.outputs, program.outputs, strict=True)}
    more = [v for v in (*frontier, *entries) if v not in names]
    names |= {v: f"{v.name} within" for v in more}
    specs = program.outputs + tuple(_spec(names[v], v) for v in more)
    builder = DataflowBuilder(program.module)
    for binding in flow.bindings:
        builder.copy(binding)
    module = builder.finish([builder.replaced(v) for v in (*flow.outputs, *more)])
    return Observed(
        program=replace(program, module=module, outputs=specs) if more else program,
        reference=_cut(program, (*flow.outputs, *more), specs, entries, names),
        exact=tuple(name for v, name in names.items() if v not in inexact and v not in entries),
        entries=tuple(names[v] for v in entries),
    )


def _computes_floats(binding: Binding) -> bool:
    if binding.operator.startswith("qnn.") or binding.operator in MOVES:
        return False
    return isinstance(binding.var.ty, relax.TensorType) and tensor_type(binding.var).dtype == "float32"


def _cut(
    program: Program,
    outputs: tuple[relax.Expr, ...],
    specs: tuple[TensorSpec, ...],
    entries: list[relax.Var],
    names: Mapping[relax.Var, str],
) -> Program:
    flow = Dataflow.of(program.module)
    given = {v: relax.Var(f"given{i}", v.ty) for i, v in enumerate(entries)}
    builder = DataflowBuilder(program.module, params=[*flow.params, *given.values()])
    computed = []
    for binding in flow.bindings:
        var = builder.copy(binding)
        if binding.var in given:
            computed.append(var)
            builder.values[binding.var] = given[binding.var]
    kept = [(v, s) for v, s in zip(outputs, specs, strict=True) if v not in given]
    module = builder.finish([*(builder.replaced(v) for v, _ in kept), *computed])
    return replace(
        program,
        module=module,
        inputs=program.inputs + tuple(_spec(names[v], v) for v in entries),
        outputs=tuple(s for _, s in kept) + tuple(_spec(f"{names[v]} computed", v) for v in entries),
    )


def _spec(name: str, var: relax.Var) -> TensorSpec:
    return TensorSpec(name, tensor_type(var).shape, tensor_type(var).dtype)
