"""Code generation: from a lowered module to machine code and instructions for the virtual machine (VM).

The kernels are divided into parts, which are compiled in parallel on as many threads as there are CPUs; TVM and LLVM
don't hold Python's lock meanwhile. The division doesn't depend on the machine, so the result doesn't either.
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
from pipeline.memory import release_memory

PARTS = 8
"""How many parts kernels are divided into: enough to keep several CPUs busy, and few enough to cost no time."""

S = TypeVar("S")
R = TypeVar("R")


def code_generation() -> tvm.transform.PassContext:
    """Return the context in which kernels are compiled.

    Three of TVM's passes are off. Storage rewriting drops the annotations of kernels' buffers, which would then be on
    the heap instead of in registers. Elimination of common subexpressions takes time, and LLVM does it anyway. Checks
    of arguments would be half the code of a small kernel; the VM checks a program's inputs, and all other tensors have
    the shapes that it has planned.
    """
    config = {"tirx.disable_storage_rewrite": True, "tirx.disable_cse_tir": True, "tirx.disable_assert": True}
    return tvm.transform.PassContext(opt_level=3, config=config)


@dataclass(frozen=True)
class Code:
    """A program's code.

    Attributes:
        target: what the code is for.
        instructions: the VM's instructions.
        constants: the VM's constants by name.
        kernels: LLVM modules, each with some of the program's kernels.
        names: names of the kernels in each of these modules.
    """

    target: tvm.target.Target
    instructions: relax.ExecBuilder
    constants: dict[str, Any]
    kernels: tuple[tvm.runtime.Module, ...]
    names: tuple[tuple[str, ...], ...]

    def executable(self) -> relax.VMExecutable:
        """Return an executable that this process can run."""
        return self._linked(self.kernels)

    def exportable(self) -> relax.VMExecutable:
        """Return an executable with object code, for a linker."""
        with tempfile.TemporaryDirectory(prefix="pipeline-objects-") as folder:

            def emit(part: int) -> tvm.runtime.Module:
                path = Path(folder) / f"{part}.o"
                self.kernels[part].write_to_file(str(path))
                return tvm.runtime.load_static_library(str(path), list(self.names[part]))

            return self._linked(concurrently(emit, range(len(self.kernels))))

    def assembly(self) -> str:
        """Return the assembly of all kernels."""
        return "\n".join(module.inspect_source("s") for module in self.kernels)

    def _linked(self, modules: tuple[tvm.runtime.Module, ...]) -> relax.VMExecutable:
        return vm_link(self.instructions, self.target, modules, self.constants)


def generate_code(module: tvm.IRModule, target: tvm.target.Target) -> Code:
    """Generate the code of a module.

    Args:
        module: a module after all phases of `lower`.
        target: what to compile for.
    """
    instructions, remaining = vm_instructions(module)
    functions = [(v, f) for v, f in remaining.functions.items() if isinstance(f, tirx.PrimFunc)]
    parts = [functions[i::PARTS] for i in range(min(PARTS, len(functions)))]

    def compile_part(part: list[tuple[tvm.ir.GlobalVar, tirx.PrimFunc]]) -> tvm.runtime.Module:
        # Each thread has its own context.
        with code_generation():
            return tvm.tirx.build(tvm.IRModule(dict(part)), target=target)

    kernels = concurrently(compile_part, parts)
    release_memory()
    names = tuple(tuple(variable.name_hint for variable, _ in part) for part in parts)
    return Code(target, instructions, dict((module.attrs or {}).get("const_name_to_constant", {})), kernels, names)


def concurrently(function: Callable[[S], R], values: Iterable[S]) -> tuple[R, ...]:
    """Return what a function returns for each value, called on as many threads as there are CPUs."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return tuple(pool.map(function, values))
