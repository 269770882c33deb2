"""Compile: a program and a target become one shared library."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from pipeline.annotation import Annotation
from pipeline.artifact import ArtifactMetadata, FloatOperator, Quantization, TargetSummary
from pipeline.calibration.table import CalibrationTable
from pipeline.compilation.dump import Dump
from pipeline.compilation.link import check_writable, link
from pipeline.compilation.lower import build_executable
from pipeline.errors import TargetError, unknown_name
from pipeline.kernels.isa import instruction_sets
from pipeline.program import Program
from pipeline.targets import Target


def compile_program(
    program: Program,
    target: Target,
    path: Path,
    annotation: Annotation | None = None,
    table: CalibrationTable | None = None,
    dump: Path | None = None,
) -> Path:
    """Compile a program ahead of time and write it as a shared library.

    Args:
        program: float, or int8 as `realize` returns it.
        target: what to build for.
        path: the library to write.
        annotation: of an int8 program; recorded in the library.
        table: of an int8 program; recorded in the library.
        dump: folder for the program after each phase, and the assembly.

    Returns:
        `path`.

    Raises:
        TargetError: the target names an unknown instruction set.
        BuildError: linking failed.
        OptionError: the output can't be written.
    """
    check_writable(path)
    known = instruction_sets()
    if target.instruction_set not in known:
        message = unknown_name("instruction set", target.instruction_set, known)
        raise TargetError(f"Target {target.name}: {message}")
    writer = None if dump is None else Dump(dump)
    executable = build_executable(program.module, target.tvm_target(), known[target.instruction_set], writer)
    if writer is not None:
        writer.assembly(executable)
    metadata = describe(program, target, annotation, table)
    link(executable, target, metadata.model_dump_json().encode("utf-8"), path)
    return path


def describe(
    program: Program, target: Target, annotation: Annotation | None, table: CalibrationTable | None
) -> ArtifactMetadata:
    """Return what the library will say about itself. There is no date and no path in it: same input, same bytes."""
    operators = annotation.operators if annotation is not None else ()
    quantization = {}
    if annotation is not None and table is not None:
        for tensor in annotation.tensors:
            entry = table.tensors[annotation.source(tensor.name)]
            quantization[tensor.name] = Quantization(scale=entry.scale, zero_point=entry.zero_point)
    packages = ("onnx-int8-pipeline", "apache-tvm", "onnx", "numpy")
    return ArtifactMetadata(
        model=program.name,
        kind="float32" if annotation is None else "int8",
        inputs=program.inputs,
        outputs=program.outputs,
        quantization=quantization,
        target=TargetSummary(**{key: getattr(target, key) for key in TargetSummary.model_fields}),
        versions={name: version(name) for name in packages},
        model_sha256=program.source_sha256,
        table_sha256=None if table is None else hashlib.sha256(table.to_json().encode("utf-8")).hexdigest(),
        int8_operators=sum(o.precision == "int8" for o in operators),
        float_operators=tuple(
            FloatOperator(name=o.name, operator=o.operator, reason=o.reason)
            for o in operators
            if o.precision == "float32"
        ),
    )
