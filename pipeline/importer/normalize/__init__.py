"""Normalization: an ONNX model becomes a simpler ONNX model, with static shapes and in float32.

The steps are, in order: resolving the inputs' shapes, `specialize`, `precision`, `fake_quantize`, and denormal weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.errors import OptionError, unknown_name
from pipeline.importer.limits import check_tensor_size
from pipeline.importer.normalize.fake_quantize import fake_quantize
from pipeline.importer.normalize.precision import to_float32
from pipeline.importer.normalize.specialize import specialize

Shapes = Mapping[str, Sequence[int]]

DeclaredShapes = Mapping[str, "tuple[int | None, ...] | None"]
"""The shapes of a model's inputs: None for an open dimension, or for an input whose rank is open."""


def normalize(model: onnx.ModelProto, shapes: Shapes, convertible: Set[str]) -> onnx.ModelProto:
    """Return an equivalent model with static shapes, in float32.

    Args:
        model: the model as it was read; not changed.
        shapes: input name -> shape. Inputs that aren't named keep the model's shape; if their first dimension, the
            batch, is open there, it becomes 1.
        convertible: operators that have converters; see `specialize`.

    Raises:
        OptionError: `shapes` names an input that doesn't exist, contradicts the model, or leaves a dimension open.
        ModelError: the model is invalid.
    """
    simpler = fake_quantize(to_float32(specialize(model, convertible, resolve_shapes(model, shapes))))
    _flush_denormals(simpler)
    return simpler


def _flush_denormals(model: onnx.ModelProto) -> None:
    """Set denormal weights, those below 2**-126, to 0.

    Training with weight decay leaves them in unused channels, and CPUs multiply them many times more slowly.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        denormal = (np.abs(values) < np.finfo("float32").tiny) & (values != 0)
        if denormal.any():
            tensor.CopyFrom(numpy_helper.from_array(np.where(denormal, np.float32(0), values), tensor.name))


def resolve_shapes(model: onnx.ModelProto, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input.

    Args:
        model: the model.
        shapes: see `normalize`.

    Raises:
        OptionError: see `normalize`.
        ModelError: an input is too large; see `limits.check_tensor_size`.
    """
    inputs = declared_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    for name in shapes:
        if name not in inputs:
            raise OptionError(unknown_name("input in the shapes given", name, inputs))
    resolved = {}
    for name, dims in inputs.items():
        declared = dims or ()
        wanted = shapes.get(name)
        has_rank = dims is not None
        if wanted is None and not has_rank:
            raise OptionError(
                f"The model doesn't say how many dimensions input {name!r} has. "
                f"Give its shape, for example --shape {name}=1,3,224,224."
            )
        if wanted is None:
            shape = [1 if d is None and i == 0 else d for i, d in enumerate(declared)]
        else:
            shape = [int(d) for d in wanted]
            if (has_rank and len(shape) != len(declared)) or any(
                d is not None and d != s for d, s in zip(declared, shape, strict=False)
            ):
                raise OptionError(
                    f"Shape {tuple(shape)} for input {name!r} contradicts the model, which has "
                    f"{_written(declared)} ('?' may be any size)."
                )
        unknown = [i for i, d in enumerate(shape) if d is None or d <= 0]
        if unknown:
            raise OptionError(
                f"Input {name!r} has the shape {_written(declared)}: dimension {unknown[0]} isn't known. "
                f"Give it, for example --shape {name}={','.join(str(d or 224) for d in shape)}."
            )
        resolved[name] = tuple(d for d in shape if d is not None)
        check_tensor_size(name, resolved[name], types[name])
    return resolved


def declared_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...] | None]:
    """Return the shapes of a model's inputs, as the model declares them; initializers aren't inputs."""
    weights = {t.name for t in model.graph.initializer} | {s.values.name for s in model.graph.sparse_initializer}
    types = {v.name: v.type.tensor_type for v in model.graph.input if v.name not in weights}
    return {
        name: tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
        if kind.HasField("shape")
        else None
        for name, kind in types.items()
    }


def _written(dims: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"
