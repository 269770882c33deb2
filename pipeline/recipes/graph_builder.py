"""Makes ONNX graphs of networks whose packages have weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]

OPERATOR_SET, IR_VERSION = 17, 9
"""Of the models."""


class GraphBuilder:
    """Collects the nodes and weights of a graph. Each method adds some and returns the name of their result.

    Args:
        weights: all weights of the network, by name.
    """

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Array) -> str:
        """Add a constant; one of the same name is replaced."""
        self.initializers[name] = numpy_helper.from_array(value, name)
        return name

    def given(self, name: str) -> str:
        """Add the network's weight of this name."""
        return self.constant(name, self.weights[name])

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def model(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Return all that was added as a model."""
        made = helper.make_graph(self.nodes, name, inputs, outputs, list(self.initializers.values()))
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPERATOR_SET)], ir_version=IR_VERSION)
