"""Counts what the compiler has fused in a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from pipeline import ops
from pipeline.compiler.lower import lower_until_kernels, machine_of
from pipeline.ir.bridge import operator_of
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.targets import Target

FUSIONS: Mapping[str, Callable[[ops.Operator], bool]] = {
    "sum in a convolution": lambda a: isinstance(a, ops.Conv2dAdd | ops.QConv2dAdd),
    "hard-swish in a convolution": lambda a: isinstance(a, ops.QConv2dHardSwish),
    "lookup in a convolution": lambda a: isinstance(a, ops.QConv2dLookup),
    "image quantized and transposed at once": lambda a: isinstance(a, ops.QuantizeImage),
    "image unfolded": lambda a: isinstance(a, ops.QuantizeImage) and a.rows > 1,
    "padding written by its producer": lambda a: any(getattr(a, "halo", ())),
    "summand found in its padding": lambda a: any(getattr(a, "residual_halo", ())),
    "images side by side": lambda a: isinstance(a, ops.UpsampleConcat) and a.arity > 1,
    "images enlarged": lambda a: isinstance(a, ops.UpsampleConcat) and max(a.factors) > 1,
    "strided pixels picked": lambda a: isinstance(a, ops.MaxPool2d) and a.pool_size == (1, 1) != a.strides,
    "transposed convolution split": lambda a: isinstance(a, ops.DepthToSpace),
    "batch run image by image": lambda a: isinstance(a, ops.Stack),
}
"""What the compiler does to a program beyond choosing kernels, and how to tell from the operators that it made."""


def operators(program: Program, target: Target) -> tuple[ops.Operator | str, ...]:
    """Return what is to become kernels: our operators with their attributes, and the names of others."""
    module = lower_until_kernels(program.module, target.tvm_target(), machine_of(target))
    return tuple(operator_of(b.value) or b.operator for b in Dataflow.of(module).bindings)


def fired(program: Program, target: Target) -> Counter[str]:
    """Return how often each fusion fires when a program is compiled for a target; those that don't are left out."""
    made = [operator for operator in operators(program, target) if not isinstance(operator, str)]
    return +Counter({name: sum(map(found, made)) for name, found in FUSIONS.items()})
