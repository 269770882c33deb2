"""Normalized ONNX to Relax, through TVM's frontend with our converters in front of its own."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend as tvm_onnx

from pipeline.dialect.operators import UnknownShapeError, has_known_shape
from pipeline.errors import ModelError
from pipeline.importer.converters import CONVERTERS
from pipeline.importer.names import name_tensors

NATIVE = frozenset({*tvm_onnx._get_convert_map(), *CONVERTERS}) - {
    "AffineGrid",
    "Attention",
    "GroupNormalization",
    "MeanVarianceNormalization",
    "Mish",
    "RMSNormalization",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
    "Shrink",
    "ThresholdedRelu",
}
"""Operators that are converted as they are.

Of the others, those that ONNX defines by a function become its nodes; among them are some that TVM converts, too, but
not always rightly."""


def convert(model: onnx.ModelProto) -> tvm.IRModule:
    """Return the Relax module of a normalized model; variables carry the names of the ONNX tensors.

    Raises:
        ModelError: operators or attributes can't be imported. All such nodes are named.
    """
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    _check_operators(model.graph, opset)
    importer = _Importer(model)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # TVM warns about sanitized names and prints each failing operator; both are in our own error.
        warnings.simplefilter("ignore")
        try:
            module = importer.from_onnx(model.graph, opset)
        except _FailedNodes as failed:
            # TVM complains on standard error about a block that nobody ends.
            importer.bb._end_block()
            raise ModelError(_message([str(f) for f in failed.failures], opset)) from failed
    return name_tensors(module, importer.names())


class _FailedNodes(Exception):
    def __init__(self, failures: list[str]) -> None:
        super().__init__("; ".join(failures))
        self.failures = failures


class _Importer(tvm_onnx.ONNXGraphImporter):
    """TVM's importer, which collects the nodes that fail."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__({}, "float32", keep_params_in_input=False, sanitize=False)
        self._model = model
        self._failures: list[str] = []

    @functools.cached_property
    def _types(self) -> Mapping[str, relax.TensorType]:
        # Inference takes seconds where weights are large, and is of use only for a list of all nodes that fail.
        return _declared_types(onnx.shape_inference.infer_shapes(self._model).graph)

    def names(self) -> dict[relax.Var, str]:
        """Return what the model calls each variable, by its first name if there are several."""
        found: dict[relax.Var, str] = {}
        for name, value in self._nodes.items():
            if isinstance(value, relax.Var):
                found.setdefault(value, name)
        return found

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        super()._construct_nodes(graph)
        if self._failures:
            raise _FailedNodes(self._failures)

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> relax.Expr:
        name = attrs["tvm_custom"]["name"]
        # TVM numbers variables and functions together: a tensor called "main" would take the function's name.
        attrs["tvm_custom"] |= {"opset": opset, "name": "tensor"}
        try:
            if op_name in CONVERTERS:
                result = CONVERTERS[op_name].get_converter(opset)(self.bb, inputs, attrs, [self._nodes, self._params])
                result = self.bb.normalize(result)
            else:
                result = super()._convert_operator(op_name, inputs, attrs, opset)
            if not has_known_shape(result):
                raise UnknownShapeError(f"the shape of tensor {name!r} depends on the data")
        except Exception as error:  # TVM raises anything from KeyError to InternalError; each becomes one line
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self._failures.append(f"{op_name} {name!r}: {reason[-1]}")
            if name not in self._types:
                raise _FailedNodes(self._failures) from error
            return relax.Var(name, self._types[name])
        return self.bb.emit(result) if isinstance(result, relax.Call) else result


def _declared_types(graph: onnx.GraphProto) -> Mapping[str, relax.TensorType]:
    """Return the types that shape inference found, which stand in for the results of nodes that fail."""
    types = {}
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        if tensor.elem_type and all(d > 0 for d in dims):
            dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            types[value.name] = relax.TensorType(dims, dtype)
    return types


def _check_operators(graph: onnx.GraphProto, opset: int) -> None:
    known = {*tvm_onnx._get_convert_map(), *CONVERTERS, "Constant"}
    failures = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            failures.append(f"{node.op_type} {node.name!r}: operator of the domain {node.domain!r}")
        elif node.op_type not in known:
            failures.append(f"{node.op_type} {node.name!r}: operator not supported")
    if failures:
        raise ModelError(_message(failures, opset))


def _message(failures: list[str], opset: int) -> str:
    listed = "\n".join(f"  {f}" for f in failures)
    noun = "node" if len(failures) == 1 else "nodes"
    return (
        f"{len(failures)} {noun} can't be imported (operator set {opset}):\n{listed}\n"
        "Export the model with other operators, or add a converter to pipeline/importer/converters.py."
    )
