"""Checks of a model that was read: either it is what the importer expects, or it is refused with one sentence.

The checks need no more memory than in proportion to the model's own size, whatever sizes it declares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, defs

from pipeline.errors import ModelError
from pipeline.importer.limits import element_type
from pipeline.importer.onnx_protos import function_name, opset_of
from pipeline.importer.read.check.contents import bodies, stored_tensors
from pipeline.importer.read.check.functions import check_calls, functions_of
from pipeline.importer.read.check.names import check_names
from pipeline.importer.read.check.nodes import check_nodes
from pipeline.importer.read.check.order import with_sorted_nodes
from pipeline.importer.read.check.tensors import check_sparse, check_storage
from pipeline.importer.read.check.values import check_values

__all__ = ["check_model", "errors_naming"]

_INPUT_TYPES = frozenset(
    {TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}
    | {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
    | {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
)
"""Element types of inputs: those that NumPy's files, and therefore samples, can have."""


@contextmanager
def errors_naming(where: str) -> Iterator[None]:
    """Return a context manager that puts `Model WHERE: ` before the message of every ModelError raised in it."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"Model {where}: {error}") from error


def check_model(model: ModelProto, where: str) -> ModelProto:
    """Check a model, and return it with its nodes sorted.

    Args:
        model: the model, with external weights loaded; not changed.
        where: its file or name, for messages.

    Returns:
        The model itself, or a copy if its nodes had to be sorted.

    Raises:
        ModelError: the model can't be used; the message says where and why.
    """
    with errors_naming(where):
        _check_versions(model)
        check_names(model)
        _check_interface(model.graph)
        functions = functions_of(model)
        for body in bodies(model):
            check_nodes(body, functions)
        check_calls(model, functions)
        for tensor, what in stored_tensors(model):
            check_storage(tensor, what)
        _check_sparse(model)
        check_values(model)
        return with_sorted_nodes(model)


def _check_versions(model: ModelProto) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"it has the IR version {model.ir_version}; the installed onnx {onnx.__version__} supports at most "
            f"{onnx.IR_VERSION}. Install a newer onnx, or export the model with an older IR version."
        )
    if not model.opset_import:
        raise ModelError("it isn't an ONNX model: it names no operator set.")
    owners = [("", model), *((f" of the function {function_name(f)!r}", f) for f in model.functions)]
    for place, owner in owners:
        opset = opset_of(owner)
        if opset is None:
            continue
        if not 1 <= opset <= defs.onnx_opset_version():
            raise ModelError(
                f"the operator set{place} is {opset}; the installed onnx {onnx.__version__} supports 1 to "
                f"{defs.onnx_opset_version()}. Install a newer onnx, or export the model with an older operator set."
            )

    if all(opset_of(owner) is None for _, owner in owners):
        domains = ", ".join(sorted(repr(o.domain) for o in model.opset_import))
        raise ModelError(f"it has no operators of ONNX's own, only of {domains}, which can't be compiled.")


def _check_interface(graph: GraphProto) -> None:
    """Check the inputs and outputs."""
    if not graph.output:
        raise ModelError("it isn't an ONNX model: it has no outputs.")
    weights = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs:
        defaults = " (what it lists as inputs are weights)" if graph.input else ""
        raise ModelError(f"it has no inputs{defaults}: its outputs are constants, and there is nothing to run.")
    for value in inputs:
        dtype = _tensor_type(value, "input")
        if dtype not in _INPUT_TYPES:
            raise ModelError(
                f"input {value.name!r} has the element type {element_type(dtype)}, which NumPy doesn't have. "
                "Export the model with inputs of another type, float32 for example."
            )
    for value in graph.output:
        _tensor_type(value, "output")


def _tensor_type(value: ValueInfoProto, kind: str) -> int:
    found = value.type.WhichOneof("value")
    # Many exporters leave out the types of outputs, which follow from the nodes.
    if found != "tensor_type" and not (found is None and kind == "output"):
        described = (found or "missing_type").replace("_type", "").replace("_", " ")
        raise ModelError(
            f"{kind} {value.name!r} isn't a tensor ({described}). Export the model with tensors as inputs and outputs."
        )
    dtype: int = value.type.tensor_type.elem_type
    return dtype


def _check_sparse(model: ModelProto) -> None:
    for body in bodies(model):
        if isinstance(body.proto, GraphProto):
            for sparse in body.proto.sparse_initializer:
                check_sparse(sparse, f"sparse weight {sparse.values.name!r}{body.place}")
        for node in body.proto.node:
            for attribute in node.attribute:
                parts = [attribute.sparse_tensor] if attribute.type == AttributeProto.SPARSE_TENSOR else []
                for sparse in (*parts, *attribute.sparse_tensors):
                    check_sparse(sparse, f"attribute {attribute.name!r} of {node.op_type} {node.name!r}{body.place}")
