"""Code generation: from a lowered module to machine code and VM instructions.

The kernels are cut into parts, which are compiled at the same time on as many threads as there are CPUs; neither TVM
nor LLVM holds a lock of Python's meanwhile. How kernels are cut does not depend on the machine, nor does the result.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tvm
from tvm import relax, tirx

from pipeline.ir.tvm_private.relax import vm_instructions, vm_link

PARTS = 8
"""Into how many parts kernels are cut: enough to keep some CPUs busy to the end, and few enough to cost nothing."""

S = TypeVar("S")
R = TypeVar("R")


def code_generation() -> tvm.transform.PassContext:
    """Return the context in which kernels are to be compiled.

    Storage rewriting forgets what kernels say of their buffers, and these would come from the heap, not from registers.
    What TVM's elimination of common subexpressions finds, LLVM finds, too, and sooner. Kernels don't check their
    arguments, which would be half of a small one's code: the VM checks a program's inputs, and plans all other tensors.
    """
    config = {"tirx.disable_storage_rewrite": True, "tirx.disable_cse_tir": True, "tirx.disable_assert": True}
    return tvm.transform.PassContext(opt_level=3, config=config)


@dataclass(frozen=True)
class Code:
    """A program's code.

    Attributes:
        target: what it is for.
        instructions: the VM's.
        constants: what the VM looks up by name.
        kernels: LLVM modules, each of some of the program's kernels.
        names: the kernels in each of the modules.
    """

    target: tvm.target.Target
    instructions: relax.ExecBuilder
    constants: dict[str, Any]
    kernels: tuple[tvm.runtime.Module, ...]
    names: tuple[tuple[str, ...], ...]

    def executable(self) -> relax.VMExecutable:
        """Return what runs in this process."""
        return self._linked(self.kernels)

    def exportable(self) -> relax.VMExecutable:
        """Return what a linker makes a library of; it holds object code."""
        with tempfile.TemporaryDirectory(prefix="pipeline-objects-") as folder:

            def emit(part: int) -> tvm.runtime.Module:
                path = Path(folder) / f"{part}.o"
                self.kernels[part].write_to_file(str(path))
                return tvm.runtime.load_static_library(str(path), list(self.names[part]))

            return self._linked(concurrently(emit, range(len(self.kernels))))

    def assembly(self) -> str:
        """Return the machine code as text."""
        return "\n".join(module.inspect_source("s") for module in self.kernels)

    def _linked(self, modules: tuple[tvm.runtime.Module, ...]) -> relax.VMExecutable:
        return vm_link(self.instructions, self.target, modules, self.constants)


def generate_code(module: tvm.IRModule, target: tvm.target.Target) -> Code:
    """Return the code of a module.

    Args:
        module: after all phases of `lower`.
        target: what to compile for.
    """
    instructions, remaining = vm_instructions(module)
    functions = [(v, f) for v, f in remaining.functions.items() if isinstance(f, tirx.PrimFunc)]
    parts = [functions[i::PARTS] for i in range(min(PARTS, len(functions)))]

    def compile_part(part: list[tuple[tvm.ir.GlobalVar, tirx.PrimFunc]]) -> tvm.runtime.Module:
        # Contexts belong to threads.
        with code_generation():
            return tvm.tirx.build(tvm.IRModule(dict(part)), target=target)

    kernels = concurrently(compile_part, parts)
    names = tuple(tuple(variable.name_hint for variable, _ in part) for part in parts)
    return Code(target, instructions, dict((module.attrs or {}).get("const_name_to_constant", {})), kernels, names)


def concurrently(function: Callable[[S], R], values: Iterable[S]) -> tuple[R, ...]:
    """Return what a function returns for each value, called on as many threads as there are CPUs."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return tuple(pool.map(function, values))
