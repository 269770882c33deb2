"""Checks of weights' values: failed training leaves NaN or infinity in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.onnx_protos import node_title
from pipeline.importer.read.check.contents import Body, bodies

_FLOATS = frozenset(number for name, number in TensorProto.DataType.items() if "FLOAT" in name or name in ("DOUBLE",))

_TRAINED = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "DeformConv", "GRU", "Gemm", "GroupNormalization"}
    | {"InstanceNormalization", "LSTM", "LayerNormalization", "MatMul", "PRelu", "RMSNormalization", "RNN"}
)
"""Operators with trained weights, in which infinity makes all results useless.

Elsewhere infinity may be meant: in attention masks, limits of Clip, or padding before a maximum.
"""


def check_values(model: ModelProto) -> None:
    """Check the values of the weights and constants that a model reads.

    Args:
        model: a model whose tensors and names have been checked.

    Raises:
        ModelError: one contains NaN, or infinity in a trained weight.
    """
    everything = list(bodies(model))
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for body in everything:
        for node in body.proto.node:
            for name in node.input:
                readers[name].add(node.op_type)
        if isinstance(body.proto, GraphProto):
            for output in body.proto.output:
                readers[output.name].add("")
    for body in everything:
        for name, tensor, what in _constants(body):
            if name in readers and tensor.data_type in _FLOATS:
                _check(tensor, what, bool(readers[name] & _TRAINED))


def _constants(body: Body) -> Iterator[tuple[str, TensorProto, str]]:
    """Yield the constants of one graph or function: the name, the tensor, and what messages call it."""
    if isinstance(body.proto, GraphProto):
        for tensor in body.proto.initializer:
            yield tensor.name, tensor, f"weight {tensor.name!r}{body.place}"
        for sparse in body.proto.sparse_initializer:
            yield sparse.values.name, sparse.values, f"weight {sparse.values.name!r}{body.place}"
    for node in body.proto.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.output[0], attribute.t, f"the constant of {node_title(node)}{body.place}"


def _check(tensor: TensorProto, what: str, trained: bool) -> None:
    stored = np.asarray(numpy_helper.to_array(tensor))
    # In float32, as in the program: a finite float64 may be infinite there.
    with np.errstate(over="ignore"):
        value = stored.astype("float32", copy=False)
    problem = "NaN" if np.isnan(value).any() else "infinity" if trained and np.isinf(value).any() else None
    if problem is not None:
        raise ModelError(f"{what} contains {problem}. Export the model again from a checkpoint without it.")
