"""Code generation: from a lowered module to machine code and instructions for the virtual machine (VM).

The kernels are divided into parts, which are compiled in parallel on as many threads as there are CPUs; TVM and LLVM
don't hold Python's lock meanwhile. The division doesn't depend on the machine, so the result doesn't either.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import tvm
from tvm import relax, tirx

from pipeline.compiler.kernel_passes import compile_functions
from pipeline.ir.tvm_private.relax import hash_of, vm_instructions, vm_link
from pipeline.library.elf import with_sections_excluded
from pipeline.memory import release_memory

PARTS, KERNELS = 8, 6
"""How many parts kernels are divided into, at the least, to keep several CPUs busy; and how many kernels a part may
have: of a program that is compiled again with some other kernels, parts that have none of these are compiled already.
A part takes some 15 milliseconds, beside its kernels."""

MOST_OBJECTS = 128
"""Of so many parts, object code is kept, some tens of kilobytes each."""

UNWIND_TABLES = ".eh_frame"
"""The section that says how to find a function's caller."""

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Code:
    """A program's code. Its kernels are compiled when they are asked for.

    Attributes:
        target: what the code is for.
        instructions: the VM's instructions.
        constants: the VM's constants by name.
        parts: the kernels by name, divided into parts.
    """

    target: tvm.target.Target
    instructions: relax.ExecBuilder
    constants: dict[str, Any]
    parts: tuple[dict[str, tirx.PrimFunc], ...]

    def executable(self) -> relax.VMExecutable:
        """Return an executable that this process can run."""
        return self._linked(self._compiled())

    def exportable(self) -> relax.VMExecutable:
        """Return an executable with object code, for a linker."""
        objects = self._linked(concurrently(lambda part: object_code(part, self.target), self.parts))
        release_memory()
        return objects

    def assembly(self) -> str:
        """Return the assembly of all kernels."""
        return "\n".join(module.inspect_source("s") for module in self._compiled())

    def _compiled(self) -> tuple[tvm.runtime.Module, ...]:
        return concurrently(lambda part: compile_functions(part, self.target), self.parts)

    def _linked(self, modules: tuple[tvm.runtime.Module, ...]) -> relax.VMExecutable:
        return vm_link(self.instructions, self.target, modules, self.constants)


def generate_code(module: tvm.IRModule, target: tvm.target.Target) -> Code:
    """Generate the code of a module.

    Args:
        module: a module after all phases of `lower`.
        target: what to compile for.
    """
    instructions, remaining = vm_instructions(module)
    functions = [(v.name_hint, f) for v, f in remaining.functions.items() if isinstance(f, tirx.PrimFunc)]
    constants = dict((module.attrs or {}).get("const_name_to_constant", {}))
    return Code(target, instructions, constants, tuple(_parts(functions)))


def _parts(functions: Sequence[tuple[str, tirx.PrimFunc]]) -> Iterator[dict[str, tirx.PrimFunc]]:
    """Divide kernels into parts.

    TVM tells LLVM of all functions of a module what the last one's `tirx.noalias` says, so a part's kernels agree.
    """
    count = max(PARTS, -(-len(functions) // KERNELS))
    for overlap in (False, True):
        alike = [each for each in functions if bool((each[1].attrs or {}).get("tirx.noalias")) != overlap]
        share = min(-(-count * len(alike) // max(len(functions), 1)), len(alike))
        yield from (dict(alike[i::share]) for i in range(share))


_objects: dict[tuple[str, ...], tvm.runtime.Module] = {}
"""Object code that was generated, by what it was generated of, what was used last at the end."""

_lock = threading.Lock()


def object_code(part: Mapping[str, tirx.PrimFunc], target: tvm.target.Target) -> tvm.runtime.Module:
    """Return the object code of kernels by name, for a linker.

    Some object code is kept: a library mostly has the kernels that corrections were checked with.
    """
    key = (str(target), *(f"{name} {hash_of(kernel):x}" for name, kernel in part.items()))
    with _lock:
        found = _objects.pop(key, None)
    if found is None:
        # In memory: LLVM ends the process if a file system becomes full.
        with os.fdopen(os.memfd_create("part.o"), "r+b") as file:
            path = f"/proc/self/fd/{file.fileno()}"
            compile_functions(part, target).write_to_file(path, "o")
            # Only debuggers would need the tables, as no exception passes through a kernel.
            stored = with_sections_excluded(file.read(), {UNWIND_TABLES})
            file.seek(0)
            file.truncate()
            file.write(stored)
            file.flush()
            found = tvm.runtime.load_static_library(path, list(part))
    with _lock:
        _objects[key] = found
        for old in list(_objects)[:-MOST_OBJECTS]:
            del _objects[old]
    return found


def concurrently(function: Callable[[S], R], values: Iterable[S], most: int | None = None) -> tuple[R, ...]:
    """Return what a function returns for each value, on as many threads as there are CPUs, or at most so many."""
    with ThreadPoolExecutor(min(cpus(), most or cpus())) as pool:
        return tuple(pool.map(function, values))


def in_background(function: Callable[[], object]) -> None:
    """Call a function in a thread of its own. If it fails, so does what needs its result, where it says so."""
    pool = ThreadPoolExecutor(1)
    pool.submit(function)
    pool.shutdown(wait=False)


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))
