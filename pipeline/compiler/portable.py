"""Compiles a program for other processes that are to compute exactly what `execute.Executor` computes in this one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.compiler.build import library_metadata
from pipeline.compiler.codegen import generate_code
from pipeline.compiler.lower import lower, machine_of
from pipeline.ir.program import Program
from pipeline.library.link import Sections, link
from pipeline.library.metadata import encode_metadata
from pipeline.targets import load_target


def portable_code(program: Program) -> bytes:
    """Return a library for this machine's target that computes a program with the very kernels of an `Executor`.

    Functions such as `expf` are those of the C library of the process that loads it, as they are in an `Executor`. A
    library that is built for users has its own, whose last bits may differ. It can be loaded by `runtime.local.Runner`.

    Args:
        program: a float or int8 program.

    Raises:
        ModelError: a tensor of the program can't be computed; see `legalize`.
        TargetError: this machine can run none of the package's targets.
        BuildError: linking failed.
    """
    target = load_target("host")
    tvm_target = target.tvm_target()
    code = generate_code(lower(program.module, tvm_target, machine_of(target)), tvm_target)
    metadata = library_metadata(program, target, None, ())
    with tempfile.TemporaryDirectory(prefix="pipeline-portable-") as folder:
        path = Path(folder) / "program.so"
        link(code.exportable(), target, Sections(*encode_metadata(metadata)), path, with_functions=False)
        return path.read_bytes()
