"""Checks of weights' values: training that went wrong leaves NaN and infinity in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.read.check.walk import Body, bodies, title

_FLOATS = frozenset(number for name, number in TensorProto.DataType.items() if "FLOAT" in name or name in ("DOUBLE",))

_TRAINED = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "DeformConv", "GRU", "Gemm", "GroupNormalization"}
    | {"InstanceNormalization", "LSTM", "LayerNormalization", "MatMul", "PRelu", "RMSNormalization", "RNN"}
)
"""Operators that multiply what they are given, or add to products: infinity there makes every result useless.

Elsewhere it has a sense: attention masks, limits of a clip, the padding of a maximum.
"""


def check_values(model: ModelProto) -> None:
    """Check the weights that a model reads, and its constants.

    Args:
        model: its tensors have been checked, and its names.

    Raises:
        ModelError: one holds NaN, or infinity where it is multiplied.
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
    """Yield the constants of one graph or function: its name, its values, and what a message calls it."""
    if isinstance(body.proto, GraphProto):
        for tensor in body.proto.initializer:
            yield tensor.name, tensor, f"weight {tensor.name!r}{body.place}"
        for sparse in body.proto.sparse_initializer:
            yield sparse.values.name, sparse.values, f"weight {sparse.values.name!r}{body.place}"
    for node in body.proto.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.output[0], attribute.t, f"the constant of {title(node)}{body.place}"


def _check(tensor: TensorProto, what: str, trained: bool) -> None:
    stored = np.asarray(numpy_helper.to_array(tensor))
    # As the program will hold it: a float64 may be finite and yet beyond every float32.
    with np.errstate(over="ignore"):
        value = stored.astype("float32", copy=False)
    problem = "NaN" if np.isnan(value).any() else "infinity" if trained and np.isinf(value).any() else None
    if problem is not None:
        raise ModelError(f"{what} holds {problem}. Export the model again from a sound checkpoint.")
