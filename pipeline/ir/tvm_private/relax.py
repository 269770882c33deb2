"""Internals of Relax and of TVM's runtime: operators, the class of constants, linking executables, and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import GenericConst, Op, make_node
from tvm.ir import _ffi_api as ir_api
from tvm.relax import vm_build
from tvm.runtime import _ffi_api as runtime_api

Constant = GenericConst
"""The class of constants in programs."""


RUNTIME_DATA = "__tvm_ffi__library_bin"
"""The symbol of `runtime_data` in a library."""


def register_operator(name: str, summary: str, infer: Callable[[relax.Call, Any], relax.Type]) -> Op:
    """Register an operator without side effects with Relax, and return it. A name can be registered once.

    Args:
        name: the operator's name, for example `qnn.conv2d`.
        summary: one line for people.
        infer: returns the type of a call's result, given the call and a BlockBuilder.
    """
    ir_api.RegisterOp(name, summary)
    op = Op.get(name)
    op.set_attr("FPurity", True)
    op.set_attr("FInferType", infer)
    return op


def dictionary_attributes(values: Mapping[str, Any]) -> tvm.ir.Attrs:
    """Return attributes of a Relax call, made of lists, numbers and strings by name."""
    return make_node("ir.DictAttrs", **values)


def vm_instructions(module: tvm.IRModule) -> tuple[relax.ExecBuilder, tvm.IRModule]:
    """Return the bytecode of a lowered module's Relax functions, and a module of its TIR functions."""
    instructions = relax.ExecBuilder()
    return instructions, vm_build._vmcodegen(instructions, module, "bytecode")


def vm_link(
    instructions: relax.ExecBuilder,
    target: tvm.target.Target,
    modules: Sequence[tvm.runtime.Module],
    constants: Mapping[str, Any],
) -> relax.VMExecutable:
    """Return an executable of Relax's virtual machine.

    Args:
        instructions: the bytecode, from `vm_instructions`.
        target: the target of the kernels.
        modules: the compiled kernels.
        constants: constants that the bytecode refers to by name.
    """
    first, *others = modules or (None,)
    return relax.VMExecutable(vm_build._ffi_api.VMLink(instructions, target, first, others, dict(constants)))


def runtime_data(executable: tvm.runtime.Executable) -> bytes:
    """Return what TVM's runtime reads of a linked executable beside its functions, such as a program; b"" if nothing.

    In a library, it has the name `RUNTIME_DATA`.
    """
    if not executable.mod.imports:
        return b""
    return bytes(runtime_api.ModulePackImportsToTensor(executable.mod).numpy().tobytes())


def with_callees(function: relax.Function, variables: Mapping[str, tvm.ir.GlobalVar]) -> relax.Function:
    """Return a function that calls others in place of those with these names."""
    return tvm_ffi.structural_map(function, (tvm.ir.GlobalVar, lambda v: variables.get(v.name_hint, v)))


def register_function(name: str, function: tvm_ffi.Function) -> None:
    """Register a function with TVM's runtime, where virtual machines find it by its name."""
    tvm_ffi.register_global_func(name, function, override=True)


def forget_function(name: str) -> None:
    """Undo what `register_function` has done; whoever holds the function can still call it."""
    tvm_ffi.registry.remove_global_func(name)


def hash_of(function: tvm.ir.BaseFunc) -> int:
    """Return a hash, from 0 to 2**64 - 1, of all that a function says, names of its variables aside."""
    return int(tvm_ffi.structural_hash(function)) % 2**64
