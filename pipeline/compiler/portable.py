"""Compiles a program for other processes that are to compute exactly what `execute.Executor` computes in this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.compiler.build import library_metadata
from pipeline.compiler.codegen import generate_code
from pipeline.compiler.execute import shared_tensors
from pipeline.compiler.lower import lower, machine_of
from pipeline.files import temporary_folder
from pipeline.ir.program import Program
from pipeline.library.link import Sections, link
from pipeline.library.metadata import encode_metadata
from pipeline.targets import load_target


@dataclass(frozen=True)
class PortableCode:
    """A program for other processes.

    Attributes:
        library: for `runtime.local.Runner`. Names of its outputs are numbers.
        outputs: names of the values that are wanted, and of the library's outputs that these are.
    """

    library: bytes
    outputs: Mapping[str, str]


def portable_code(program: Program, tensors: Sequence[str] | None = None) -> PortableCode:
    """Return a program for this machine's target, with the very kernels of the `Executor` that this process would use.

    Functions such as `expf` are those of the C library of the process that loads it, as they are in an `Executor`. A
    library that is built for users has its own, whose last bits may differ.

    Args:
        program: a float or int8 program.
        tensors: variables of its module whose values are wanted; None means the outputs.

    Raises:
        ModelError: a tensor of the program can't be computed; see `legalize`.
        TargetError: this machine can run none of the package's targets.
        BuildError: linking failed.
    """
    computed, count = shared_tensors(program, tensors or ()), len(program.outputs)
    if tensors is None:
        wanted = {output.name: str(i) for i, output in enumerate(program.outputs)}
    else:
        wanted = {name: str(count + computed.index(name)) for name in tensors}
    program = program.with_more_outputs(computed) if computed else program
    numbered = tuple(replace(output, name=str(i)) for i, output in enumerate(program.outputs))
    program = replace(program, outputs=numbered)
    target = load_target("host")
    tvm_target = target.tvm_target()
    code = generate_code(lower(program.module, tvm_target, machine_of(target)), tvm_target)
    metadata = library_metadata(program, target, None, ())
    with temporary_folder("pipeline-portable-") as folder:
        path = folder / "program.so"
        link(code.exportable(), target, Sections(*encode_metadata(metadata)), path, with_functions=False)
        return PortableCode(path.read_bytes(), wanted)
