"""Kernels of programs that run in this process: compiled once, and kept for all later programs that call them.

A model is run several times while it is quantized, with more or fewer of its tensors as outputs, or with other weights:
most of the kernels are the same, and compiling them takes longer than all else. So kernels are named by what they are,
and registered as functions of TVM's runtime under these names, where virtual machines look them up. (If machines
imported them as modules, each name would be looked for in one module after another, which takes milliseconds for every
module that doesn't have it.)
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax, tirx

from pipeline.compiler.codegen import concurrently, cpus
from pipeline.compiler.kernel_passes import compile_functions
from pipeline.ir.tvm_private.relax import (
    forget_function,
    hash_of,
    register_function,
    vm_instructions,
    vm_link,
    with_callees,
)
from pipeline.memory import release_memory

MOST = 256
"""So many kernels are kept, those that were used last; one takes some hundred kilobytes."""

NOTHING = "nothing"
"""The function that `add_nothing` adds."""

_GLOBAL_SYMBOL = "global_symbol"

_lock = threading.Lock()
_loaded: dict[str, None] = {}
"""Names of the kernels that are registered, the one that was used last at the end."""


def virtual_machines(module: tvm.IRModule, target: tvm.target.Target, count: int) -> list[relax.VirtualMachine]:
    """Return virtual machines that run a program in this process. One can't run twice at the same time.

    Args:
        module: a module after all phases of `lower`, without a pool of constants.
        target: what kernels are compiled for; this machine.
        count: how many; they share the program's constants.
    """
    kernels = {v.name_hint: f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    names = {before: _name(before, kernel, target) for before, kernel in kernels.items()}
    variables = {before: tvm.ir.GlobalVar(name) for before, name in names.items()}
    rest = {v: with_callees(f, variables) for v, f in module.functions.items() if v.name_hint not in kernels}
    instructions, _ = vm_instructions(tvm.IRModule(rest, attrs=module.attrs))
    constants = dict((module.attrs or {}).get("const_name_to_constant", {}))
    add_nothing(instructions)
    with _lock:
        _load({names[before]: kernel for before, kernel in kernels.items()}, target)
        # A machine holds the functions that it calls, so they may be forgotten later. It is given the executable's
        # module, which runs as it is: `jit`, which finds that out, takes several times the constants' memory for it.
        executable = vm_link(instructions, target, (), constants).mod
        return [relax.VirtualMachine(executable, tvm.cpu()) for _ in range(count)]


def add_nothing(instructions: relax.ExecBuilder) -> None:
    """Add a function that returns nothing to a program.

    A virtual machine holds what it has returned last, which may be all activations, until it returns something else.
    """
    with instructions.function(NOTHING):
        instructions.emit_call("vm.builtin.null_value", dst=instructions.r(0))
        instructions.emit_ret(instructions.r(0))


def _name(name: str, kernel: tirx.PrimFunc, target: tvm.target.Target) -> str:
    """Return a name that only equal kernels for the same target have."""
    content = hash_of(kernel.without_attr(_GLOBAL_SYMBOL))
    compiled_for = hashlib.sha256(str(target).encode("utf-8")).hexdigest()[:8]
    return f"{name}__{content:016x}_{compiled_for}"


def _load(kernels: Mapping[str, tirx.PrimFunc], target: tvm.target.Target) -> None:
    """Register kernels by their names, those that aren't registered yet, and forget others if there are too many."""
    missing = [(name, kernel) for name, kernel in kernels.items() if name not in _loaded]
    # A module takes some 20 milliseconds, beside its kernels. Two for each CPU keep all busy until the end.
    count = min(2 * cpus(), len(missing))
    parts = [missing[i::count] for i in range(count)]

    def compile_part(part: list[tuple[str, tirx.PrimFunc]]) -> list[tuple[str, Any]]:
        compiled = compile_functions(dict(part), target)
        # Asking for a function makes its module machine code.
        return [(name, compiled[name]) for name, _ in part]

    for part in concurrently(compile_part, parts) if parts else ():
        for name, function in part:
            register_function(name, function)
    for name in kernels:
        _loaded.pop(name, None)
        _loaded[name] = None
    if missing:
        release_memory()
    for name in list(_loaded)[: -max(MOST, len(kernels))]:
        forget_function(name)
        del _loaded[name]
