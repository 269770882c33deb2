"""Compiles a program for a target and writes it as a shared library."""

from __future__ import annotations

import dataclasses
import re
from importlib.metadata import version
from pathlib import Path

import msgspec

from pipeline.compiler.codegen import generate_code
from pipeline.compiler.dump import Dump
from pipeline.compiler.lower import lower, machine_of
from pipeline.compiler.records import KernelRecorder
from pipeline.compiler.tuning import TuningDatabase
from pipeline.ir.program import Program
from pipeline.library.constants import ConstantPool
from pipeline.library.link import Sections, check_library_writable, link
from pipeline.library.metadata import (
    ArtifactMetadata,
    OperatorRecord,
    QuantizationSummary,
    TargetSummary,
    encode_metadata,
)
from pipeline.process_state import one_at_a_time
from pipeline.targets import Target


@one_at_a_time
def compile_program(
    program: Program,
    target: Target,
    path: str | Path,
    quantized: QuantizationSummary | None = None,
    dump: Path | None = None,
    tuned: TuningDatabase | None = None,
) -> Path:
    """Compile a program ahead of time and write it as a shared library.

    Args:
        program: float, or int8 as `realize` returns it.
        target: what to build for.
        path: the library to write.
        quantized: what quantization did, which the library records; None for a float program.
        dump: folder for the program after each phase, and the assembly; None writes neither.
        tuned: measured register tiles to use, see `tuning`; None leaves the choice to the cost model.

    Returns:
        The library's path.

    Raises:
        TableError: the tuning database names a tile that isn't possible for its layer.
        TargetError: the target names an unknown instruction set.
        BuildError: linking failed.
        OptionError: the output can't be written.
    """
    written = Path(path)
    check_library_writable(written)
    machine = machine_of(target)
    if tuned is not None:
        machine = dataclasses.replace(machine, tuned=tuned.choices())
    writer = None if dump is None else Dump(dump)
    recorder = KernelRecorder([o.name for o in program.outputs], writer)
    tvm_target = target.tvm_target()
    pool = ConstantPool()
    code = generate_code(lower(program.module, tvm_target, machine, pool, recorder), tvm_target)
    if writer is not None:
        writer.assembly(code.assembly())
    metadata = library_metadata(program, target, quantized, recorder.operators)
    link(code.exportable(), target, Sections(*encode_metadata(metadata), pool), written)
    return written


def library_metadata(
    program: Program, target: Target, quantized: QuantizationSummary | None, operators: tuple[OperatorRecord, ...]
) -> ArtifactMetadata:
    """Return the metadata of a library. It contains no date and no path, so that equal inputs give equal bytes."""
    versions = {name: version(name) for name in ("onnx-int8-pipeline", "apache-tvm", "onnx", "numpy")}
    return ArtifactMetadata(
        model=program.name,
        kind="float32" if quantized is None else "int8",
        inputs=program.inputs,
        outputs=program.outputs,
        target=TargetSummary(**{key: getattr(target, key) for key in TargetSummary.__struct_fields__}),
        versions=versions | {"onnx-int8-pipeline": _without_commit(versions["onnx-int8-pipeline"])},
        model_sha256=program.source_sha256,
        operators=operators,
        schema_version=3 if program.preprocessing is None else 4,
        preprocessing=msgspec.UNSET if program.preprocessing is None else program.preprocessing,
        **({} if quantized is None else msgspec.structs.asdict(quantized)),
    )


def _without_commit(version: str) -> str:
    """Return a version without its suffix for the commit, so that a commit alone doesn't change libraries."""
    return re.split(r"[^0-9.]|\.(?![0-9])", version, maxsplit=1)[0]
