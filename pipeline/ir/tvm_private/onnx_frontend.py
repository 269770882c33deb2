"""What TVM's ONNX importer has within: its converters, and the steps in which it takes a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

Converter = Callable[[relax.BlockBuilder, Any, Mapping[str, Any], Any], relax.Expr]
"""Returns what becomes of a node: called with a builder, the node's inputs, its attributes, and the graph's tensors."""


def converted_operators() -> frozenset[str]:
    """Return which operators TVM has converters for."""
    return frozenset(onnx_frontend._get_convert_map())


def tvm_converter(op_type: str, opset: int) -> Converter:
    """Return TVM's own converter of an operator in a version of the operator set."""
    converter: Converter = onnx_frontend._get_convert_map()[op_type].get_converter(opset)
    return converter


class GraphImporter(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer of graphs, by a converter of ours: `convert_node`."""

    def __init__(self) -> None:
        super().__init__({}, "float32", keep_params_in_input=False, sanitize=False)

    @property
    def tensors(self) -> Mapping[str, relax.Expr]:
        """What the graph's tensors have become so far."""
        tensors: Mapping[str, relax.Expr] = self._nodes
        return tensors

    @property
    def scope(self) -> list[Any]:
        """What converters take as the graph's tensors."""
        return [self._nodes, self._params]

    def convert_node(self, op_type: str, inputs: Any, attributes: dict[str, Any], opset: int) -> relax.Expr:
        """Return what becomes of a node; `tvm_custom` among the attributes holds its name and more."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do what is to be done when all nodes are converted."""

    def abandon(self) -> None:
        """End what has been begun; otherwise TVM complains on standard error."""
        self.bb._end_block()

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """Don't: TVM doesn't know whose converters there are."""

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        super()._construct_nodes(graph)
        self.finish()

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> relax.Expr:
        return self.convert_node(op_name, inputs, attrs, opset)

    def _parse_attr(self, attr_proto: Sequence[onnx.AttributeProto]) -> dict[str, Any]:
        """Return the attributes' values by name; TVM's own refuses empty lists."""
        values = {a.name: onnx.helper.get_attribute_value(a) for a in attr_proto}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
