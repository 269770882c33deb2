"""Operators, constants and executables of Relax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.ir import GenericConst, Op, make_node
from tvm.ir import _ffi_api as ir_api
from tvm.relax import vm_build

Constant = GenericConst
"""The class of constants in programs."""


def register_operator(name: str, summary: str, infer: Callable[[relax.Call, Any], relax.Type]) -> Op:
    """Make an operator without side effects known to Relax, once in a process, and return it.

    Args:
        name: e.g. `qnn.conv2d`.
        summary: one line for people.
        infer: returns the type of a call's result.
    """
    ir_api.RegisterOp(name, summary)
    op = Op.get(name)
    op.set_attr("FPurity", True)
    op.set_attr("FInferType", infer)
    return op


def dictionary_attributes(values: Mapping[str, Any]) -> tvm.ir.Attrs:
    """Return a call's attributes from plain lists, numbers and strings."""
    return make_node("ir.DictAttrs", **values)


def vm_instructions(module: tvm.IRModule) -> tuple[relax.ExecBuilder, tvm.IRModule]:
    """Return the virtual machine's instructions for a lowered module, and what is left of it: its TIR functions."""
    instructions = relax.ExecBuilder()
    return instructions, vm_build._vmcodegen(instructions, module, "bytecode")


def vm_link(
    instructions: relax.ExecBuilder,
    target: tvm.target.Target,
    modules: Sequence[tvm.runtime.Module],
    constants: Mapping[str, Any],
) -> relax.VMExecutable:
    """Return an executable of a virtual machine.

    Args:
        instructions: see `vm_instructions`.
        target: what they are for.
        modules: compiled kernels.
        constants: what the machine looks up by name.
    """
    first, *others = modules or (None,)
    return relax.VMExecutable(vm_build._ffi_api.VMLink(instructions, target, first, others, dict(constants)))
