"""Normalization: an ONNX model becomes a simpler ONNX model, with static shapes and in float32.

The steps are, in order: resolving the inputs' shapes, `specialize`, `precision`, `fake_quantize`, and denormal weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.errors import OptionError, unknown_name
from pipeline.importer.limits import check_tensor_size, element_type
from pipeline.importer.normalize.fake_quantize import fake_quantize
from pipeline.importer.normalize.precision import to_float32
from pipeline.importer.normalize.specialize import specialize

Shapes = Mapping[str, Sequence[int]]

Fixed = Mapping[str, float]
"""Input name -> value of all its elements, for inputs whose values never change."""

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


def fix_inputs(model: onnx.ModelProto, fixed: Fixed, shapes: Shapes) -> dict[str, npt.NDArray[Any]]:
    """Turn inputs into constants, in place, and return these by input name.

    A model for two sample rates, say, chooses between two networks by what its input `sr` holds. With that input fixed,
    the choice is a constant, and `specialize` folds it.

    Args:
        model: a checked model.
        fixed: see `Fixed`.
        shapes: see `normalize`; shapes of other inputs aren't used.

    Raises:
        OptionError: there is no such input, its shape isn't known, its dtype can't represent the value, or no input is
            left.
    """
    graph, declared = model.graph, declared_shapes(model)
    inputs = {i.name: i for i in graph.input if i.name in declared}
    constants = {}
    for name, value in fixed.items():
        if name not in inputs:
            raise OptionError(unknown_name("input in the values to fix", name, inputs))
        element = inputs[name].type.tensor_type.elem_type
        shape = _resolved(name, declared[name], shapes.get(name))
        check_tensor_size(name, shape, element)
        constants[name] = _filled(name, shape, element, value)
        graph.input.remove(inputs[name])
        graph.initializer.append(numpy_helper.from_array(constants[name], name))
    if constants and len(constants) == len(inputs):
        raise OptionError("All inputs are fixed, so all outputs are constants, and there is nothing to run.")
    return constants


def _filled(name: str, shape: tuple[int, ...], element: int, value: float) -> npt.NDArray[Any]:
    dtype = np.dtype(object) if element == onnx.TensorProto.STRING else helper.tensor_dtype_to_np_dtype(element)
    if not dtype.hasobject and _represents(dtype, value):
        return np.full(shape, value, dtype)
    raise OptionError(f"Input {name!r} can't be fixed to {value:g}: it is of {element_type(element)}.")


def _represents(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a dtype can hold a number; floats may round it."""
    if dtype.kind == "b":
        return value in (0, 1)
    if dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.asarray(value).astype(dtype)))
    return np.iinfo(dtype).min <= value <= np.iinfo(dtype).max and value == int(value)


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
    resolved = {name: _resolved(name, dims, shapes.get(name)) for name, dims in inputs.items()}
    for name, shape in resolved.items():
        check_tensor_size(name, shape, types[name])
    return resolved


def _resolved(name: str, dims: tuple[int | None, ...] | None, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the shape of an input: the one that is wanted, or else the declared one with an open batch of 1."""
    declared = dims or ()
    if wanted is None and dims is None:
        raise OptionError(
            f"The model doesn't say how many dimensions input {name!r} has. "
            f"Give its shape, for example --shape {name}=1,3,224,224."
        )
    if wanted is None:
        shape = [1 if d is None and i == 0 else d for i, d in enumerate(declared)]
    else:
        shape = [int(d) for d in wanted]
        if (dims is not None and len(shape) != len(declared)) or any(
            d is not None and d != s for d, s in zip(declared, shape, strict=False)
        ):
            raise OptionError(
                f"Shape {tuple(shape)} for input {name!r} contradicts the model, which has "
                f"{_written(declared)} ('?' may be any size)."
            )
    if 0 in shape:
        raise OptionError(
            f"Shape {tuple(shape)} for input {name!r} has no elements, and such inputs can't be compiled. Give samples "
            "that have some, or a shape."
        )
    unknown = [i for i, d in enumerate(shape) if d is None or d < 0]
    if unknown:
        raise OptionError(
            f"Input {name!r} has the shape {_written(declared)}: dimension {unknown[0]} isn't known. "
            f"Give it, for example --shape {name}={','.join(str(d or 224) for d in shape)}."
        )
    return tuple(d for d in shape if d is not None)


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
