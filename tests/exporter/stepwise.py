"""An exported model operator by operator: each one computes from the very values that ours has before it.

Roundings that differ by one step would otherwise add up from layer to layer, as quantization's own do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper
from tvm import relax

from pipeline.api import Quantized
from pipeline.exporter import to_onnx
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Dataflow
from pipeline.reference import execute_all
from tests.models import run_exactly

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rounding:
    """How a quantized tensor that ONNX Runtime computes differs from ours.

    Attributes:
        tensor: its name.
        steps: the largest difference, in steps of the quantized values.
        equal: share of the values that are equal.
    """

    tensor: str
    steps: int
    equal: float


def has_cubes(quantized: Quantized) -> bool:
    """Return whether a program has images as high as wide as deep, of which shapes don't tell where channels are."""
    variables = (b.var for b in Dataflow.of(quantized.program.module).bindings)
    shapes = [tensor_type(v).shape for v in variables if isinstance(v.ty, relax.TensorType)]
    return any(len(shape) == 4 and len(set(shape[1:])) == 1 < shape[1] for shape in shapes)


def exported(quantized: Quantized) -> onnx.ModelProto:
    """Return a model as ONNX, which ONNX itself has checked."""
    model = to_onnx(quantized.realized, quantized.program, quantized.annotation, quantized.table)
    onnx.checker.check_model(model, full_check=True)
    return model


def compare_stepwise(quantized: Quantized, feeds: dict[str, Array]) -> list[Rounding]:
    """Run an exported model in ONNX Runtime, each operator on our own reference's quantized values."""
    assert not has_cubes(quantized)
    values = {str(v.name): a for v, a in execute_all(quantized.program, feeds).items()}
    model = exported(quantized)
    given: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        name = node.output[0]
        given[name] = _ours(name, values, shape_of(model, name))
        stored = helper.np_dtype_to_tensor_dtype(given[name].dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, stored, given[name].shape))
        node.output[0] = f"{name} computed"
        model.graph.output.append(helper.make_tensor_value_info(node.output[0], stored, None))
    results = run_exactly(model, feeds | given)
    computed = {o.name: r for o, r in zip(model.graph.output, results, strict=True)}
    found = []
    for name, ours in given.items():
        apart = np.abs(ours.astype("int32") - computed[f"{name} computed"].astype("int32"))
        found.append(Rounding(name, int(apart.max()), float((apart == 0).mean())))
    return found


def shape_of(model: onnx.ModelProto, name: str) -> tuple[int, ...]:
    """Return a tensor's shape, as ONNX infers it."""
    inferred = onnx.shape_inference.infer_shapes(model)
    (info,) = (i for i in inferred.graph.value_info if i.name == name)
    return tuple(d.dim_value for d in info.type.tensor_type.shape.dim)


def _ours(name: str, values: dict[str, Array], shape: tuple[int, ...]) -> Array:
    """Return our quantized values of a tensor, images with their channels first where ONNX has them so."""
    ours = values.get(name, values.get(name.removesuffix(".quantized")))
    assert ours is not None
    if ours.dtype not in (np.uint8, np.int16):
        raise AssertionError(f"{name} isn't stored in 8 or 16 bits")
    return np.ascontiguousarray(ours if ours.shape == shape else ours.transpose(0, 3, 1, 2))
