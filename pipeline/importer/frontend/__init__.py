"""Conversion of a normalized ONNX model to Relax, by TVM's frontend; our converters take precedence over TVM's.

A converter refuses a node by a `ModelError`; all nodes that are refused are listed in one error. TVM's converters raise
all kinds of exceptions, which `fallback.convert_by_tvm` turns into a `ModelError`. Any other exception is a bug.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import onnx
import tvm
from tvm import relax

from pipeline.errors import ModelError
from pipeline.importer.cutting import MAX_PROPOSED, ends_before
from pipeline.importer.frontend.converters import CONVERTERS
from pipeline.importer.frontend.converters.node import Node
from pipeline.importer.frontend.fallback import convert_by_tvm
from pipeline.importer.frontend.names import name_tensors
from pipeline.importer.normalize.recurrent import MAX_STEPS
from pipeline.importer.onnx_protos import node_name
from pipeline.ir.bridge import UnknownShapeError, has_known_shape
from pipeline.ir.tvm_private.onnx_frontend import GraphImporter, converted_operators
from pipeline.process_state import without_warnings

CONVERTIBLE = frozenset({*converted_operators(), *CONVERTERS}) - {
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
"""Operators that are converted directly, by a converter of ours or of TVM.

All others are replaced by the function by which ONNX defines them, if there is one. This includes the operators that
are subtracted here: TVM has converters for them, but with errors.
"""

MAX_LISTED = 20
"""Most nodes that an error lists as not importable."""


class _Failure(NamedTuple):
    """A node that can't be imported: its name, and its operator and name with the reason, for the message."""

    node: str
    reason: str


def convert(model: onnx.ModelProto, ends: Set[str]) -> tvm.IRModule:
    """Return the Relax module of a normalized model; variables carry the names of the ONNX tensors.

    Args:
        model: the normalized model.
        ends: tensors at which the model could be cut, for messages; see `cutting.cuttable`.

    Raises:
        ModelError: operators or attributes can't be imported. All such nodes are named.
    """
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    failures = _unknown_operators(model.graph)
    if failures:
        raise ModelError(_message(failures, model.graph, opset, ends))
    importer = _Importer(model)
    # TVM warns about names that it changes.
    with without_warnings():
        try:
            module = importer.from_onnx(model.graph, opset)
        except _FailedNodes as failed:
            importer.abandon()
            raise ModelError(_message(failed.failures, model.graph, opset, ends)) from failed
    return name_tensors(module, importer.names())


class _FailedNodes(BaseException):
    """Some nodes can't be converted. TVM would print every Exception, beside the error that lists them."""

    def __init__(self, failures: list[_Failure]) -> None:
        super().__init__("; ".join(failure.reason for failure in failures))
        self.failures = failures


class _Importer(GraphImporter):
    """TVM's importer with our converters. It collects nodes that fail, in order to report all of them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._types = _declared_types(model.graph)
        self._failures: list[_Failure] = []

    def names(self) -> dict[relax.Var, str]:
        """Return the ONNX name of each variable; of several names, the first."""
        found: dict[relax.Var, str] = {}
        for name, value in self.tensors.items():
            if isinstance(value, relax.Var):
                found.setdefault(value, name)
        return found

    def finish(self) -> None:
        """Report the nodes that failed.

        Raises:
            _FailedNodes: there are some.
        """
        if self._failures:
            raise _FailedNodes(self._failures)

    def convert_node(self, op_type: str, inputs: Any, attributes: dict[str, Any], opset: int) -> relax.Expr:
        """Return the Relax expression of a node.

        For a node that fails, return a variable of the declared type, so that later nodes can be tried as well.

        Raises:
            _FailedNodes: the node fails, and the type of its result isn't declared.
        """
        about = attributes["tvm_custom"]
        name = about["name"]
        # TVM names variables and functions in one namespace: a tensor called "main" would rename the function.
        about |= {"opset": opset, "name": "tensor"}
        try:
            if op_type in CONVERTERS:
                node = Node(op_type, self.bb, inputs, attributes, self.scope)
                result = self.bb.normalize(CONVERTERS[op_type](node))
            else:
                result = convert_by_tvm(op_type, self.bb, inputs, attributes, self.scope)
            if not has_known_shape(result):
                raise ModelError(f"the shape of tensor {name!r} depends on the data")
            if not _tensor_count(result):
                raise ModelError("an empty sequence can't be imported")
            if (given := _tensor_count(result)) < about["num_outputs"]:
                raise ModelError(f"only its first {given} outputs can be imported")
        except (ModelError, UnknownShapeError) as error:
            self._failures.append(_Failure(name, f"{op_type} {name!r}: {error}"))
            if name not in self._types or about["num_outputs"] > 1:
                raise _FailedNodes(self._failures) from error
            return relax.Var(name, self._types[name])
        return self.bb.emit(result) if isinstance(result, relax.Call) else result


def _tensor_count(value: relax.Expr) -> int:
    """Return the number of tensors in an expression: one, or the number of a tuple's fields."""
    return len(value.ty.fields) if isinstance(value.ty, relax.TupleType) else 1


def _declared_types(graph: onnx.GraphProto) -> Mapping[str, relax.TensorType]:
    """Return the static types of tensors that the graph declares, by name."""
    types = {}
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        if tensor.elem_type and all(d > 0 for d in dims):
            dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            types[value.name] = relax.TensorType(dims, dtype)
    return types


def _unknown_operators(graph: onnx.GraphProto) -> list[_Failure]:
    """Return the nodes whose operators there is no converter for."""
    known = {*converted_operators(), *CONVERTERS}
    failures = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            reason = _OTHER_DOMAINS.get(node.domain, f"operator of the domain {node.domain!r}")
            if node.domain == "com.microsoft" and ("Quantize" in node.op_type or node.op_type.startswith("QLinear")):
                reason = _QUANTIZED
        elif node.op_type not in known:
            reason = _REASONS.get(node.op_type, "operator not supported")
        else:
            continue
        failures.append(_Failure(node_name(node), f"{node.op_type} {node.name!r}: {reason}"))
    return failures


_QUANTIZED = (
    "the model is quantized already; give the float model that it was made from, or a model quantized by pairs of "
    "QuantizeLinear and DequantizeLinear"
)
_RANDOM = "its results are random"
_RECURRENT = (
    f"a recurrent layer can be imported if all sequences have the same length, at most {MAX_STEPS} steps, and its "
    "activations have no parameters"
)

_REASONS = {
    "ConvInteger": _QUANTIZED,
    "GRU": _RECURRENT,
    "If": "which branch is taken depends on the data; if that is an input that never changes, fix it: --fix NAME=VALUE",
    "LSTM": _RECURRENT,
    "Loop": "the number of iterations depends on the data, not on shapes alone",
    "QLinearConv": _QUANTIZED,
    "QLinearMatMul": _QUANTIZED,
    "RNN": _RECURRENT,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
}
"""Why some operators without a converter can't be imported."""

_OTHER_DOMAINS = {
    "com.microsoft": "an operator of ONNX Runtime's optimizer; export the model without that optimization",
    "ai.onnx.ml": "operators of classical machine learning, such as decision trees, can't be imported",
}


def _message(failures: list[_Failure], graph: onnx.GraphProto, opset: int, ends: Set[str]) -> str:
    shown = [f.reason for f in failures[:MAX_LISTED]]
    shown += [f"... and {len(failures) - MAX_LISTED} more"] * (len(failures) > MAX_LISTED)
    listed = "\n".join(f"  {reason}" for reason in shown)
    noun = "node" if len(failures) == 1 else "nodes"
    proposed = ends_before(graph, {f.node for f in failures})
    way_out = "Export the model with other operators."
    if 0 < len(proposed) <= MAX_PROPOSED and ends >= set(proposed):
        options = shlex.join(word for name in proposed for word in ("--cut-at", name))
        way_out = f"Export the model with other operators, or build only what comes before: {options}"
    return f"{len(failures)} {noun} can't be imported (operator set {opset}):\n{listed}\n{way_out}"
