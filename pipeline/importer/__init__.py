"""Import: an ONNX file becomes a float32 Relax program, with constants folded and images in NHWC.

The steps are `read`, `normalize`, `frontend` (with our converters), and the passes of `passes.float`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import tvm
from tvm import relax

from pipeline.errors import ModelError
from pipeline.files import arrays_digest
from pipeline.importer.cutting import cut, cuttable
from pipeline.importer.frontend import CONVERTIBLE, convert
from pipeline.importer.normalize import DeclaredShapes, Fixed, Shapes, declared_shapes, fix_inputs, normalize
from pipeline.importer.read import read_model
from pipeline.importer.read.check import check_model
from pipeline.importer.source_nodes import source_nodes
from pipeline.ir.bridge import UnknownShapeError, UnsupportedProgramError, from_relax_type
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program, TensorSpec
from pipeline.memory import release_memory
from pipeline.passes.float import PASSES
from pipeline.process_state import one_at_a_time

__all__ = ["import_model", "import_proto"]

Completion = Callable[[DeclaredShapes, Shapes], Shapes]
"""Returns the shapes given, completed by others, from the shapes that the model declares and those given."""


@one_at_a_time
def import_model(
    path: str | Path,
    shapes: Shapes | None = None,
    complete: Completion | None = None,
    fixed: Fixed | None = None,
    cut_at: Sequence[str] = (),
) -> Program:
    """Read an ONNX file and return it as a float32 program.

    Args:
        path: the .onnx file; external weights must lie below its folder.
        shapes: input name -> shape, for inputs whose shape the file leaves open; an open batch is 1.
        complete: adds shapes for more inputs, for example those of samples.
        fixed: input name -> value of all its elements, for inputs that the program doesn't have, as their values never
            change.
        cut_at: tensors that become the outputs, instead of the model's own; what comes after them is left out.

    Raises:
        ModelError: the file can't be read, or has operators that can't be imported (all are named).
        OptionError: `shapes`, `fixed` or `cut_at` doesn't fit the model.
    """
    path = Path(path)
    model, digest = read_model(path)
    # A file's name may be any bytes, but the model's name is text in reports and metadata.
    name = os.fsencode(path.name).decode("utf-8", "replace")
    constants = fix_inputs(model, fixed or {}, shapes or {})
    # What tables and states say of a model holds for these values and outputs only.
    if constants:
        digest = hashlib.sha256(digest.encode() + arrays_digest(constants)).hexdigest()
    if cut_at:
        cut(model, cut_at)
        digest = hashlib.sha256(json.dumps([digest, *cut_at]).encode()).hexdigest()
    given = {input_name: shape for input_name, shape in (shapes or {}).items() if input_name not in constants}
    chosen = given if complete is None else complete(declared_shapes(model), given)
    program = replace(_import(model, chosen, name.removesuffix(".onnx"), digest), fixed=constants)
    release_memory()
    return program


@one_at_a_time
def import_proto(model: onnx.ModelProto, shapes: Shapes, name: str, source_sha256: str) -> Program:
    """Return an ONNX model in memory as a float32 program.

    Args:
        model: the model, with all weights in it.
        shapes: input name -> shape, for inputs whose shape the model leaves open; an open batch is 1.
        name: the model's name, for files and reports.
        source_sha256: hexadecimal SHA-256 of the model's file.

    Raises:
        ModelError, OptionError: see `import_model`.
    """
    return _import(check_model(model, name), shapes, name, source_sha256)


def _import(model: onnx.ModelProto, shapes: Shapes, name: str, source_sha256: str) -> Program:
    normalized = normalize(model, shapes, CONVERTIBLE)
    module = convert(normalized, cuttable(model.graph))
    try:
        _check_shapes(module)
        for step in PASSES:
            module = step(module)
        inputs = _specs([i.name for i in normalized.graph.input], module["main"].params)
        outputs = _specs([o.name for o in normalized.graph.output], Dataflow.of(module).outputs)
    except UnsupportedProgramError as error:
        raise ModelError(f"Model {name} can't be compiled ahead of time: {error}.") from error
    return Program(module, inputs, outputs, name, source_sha256, source_nodes(model, module))


def _check_shapes(module: tvm.IRModule) -> None:
    """Refuse tensors whose shapes depend on the data.

    Raises:
        UnknownShapeError: there are some. They are named, except those that only exist inside TVM's converters.
    """
    unknown = [b.var.name for b in Dataflow.of(module).bindings if not _has_known_shape(b.var)]
    named = [name for name in unknown if not name.startswith("lv")] or unknown
    if named:
        raise UnknownShapeError(f"the shape of tensor {', '.join(map(repr, named))} depends on the data")


def _has_known_shape(var: relax.Var) -> bool:
    try:
        return not isinstance(var.ty, relax.TensorType) or bool(from_relax_type(var.ty))
    except UnknownShapeError:
        return False


def _specs(names: list[str], values: Sequence[relax.Expr]) -> tuple[TensorSpec, ...]:
    types = [from_relax_type(v.ty) for v in values]
    return tuple(TensorSpec(n, t.shape, t.dtype) for n, t in zip(names, types, strict=True))
