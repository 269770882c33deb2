"""Internals of TVM's ONNX frontend: its converters, and its importer of graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

Converter = Callable[[relax.BlockBuilder, Any, Mapping[str, Any], Any], relax.Expr]
"""Converts a node, given a builder, the node's inputs, its attributes, and the graph's tensors so far."""


def converted_operators() -> frozenset[str]:
    """Return the ONNX operators that TVM has converters for."""
    return frozenset(onnx_frontend._get_convert_map())


def tvm_converter(op_type: str, opset: int) -> Converter:
    """Return TVM's converter of an operator, as that operator is in a version of the operator set."""
    converter: Converter = onnx_frontend._get_convert_map()[op_type].get_converter(opset)
    return converter


class GraphImporter(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer of graphs, which converts each node by `convert_node`, to be defined by a subclass."""

    def __init__(self) -> None:
        super().__init__({}, "float32", keep_params_in_input=False, sanitize=False)

    @property
    def tensors(self) -> Mapping[str, relax.Expr]:
        """The Relax expressions of the graph's tensors that have been converted so far, by name."""
        tensors: Mapping[str, relax.Expr] = self._nodes
        return tensors

    @property
    def scope(self) -> list[Any]:
        """The graph's tensors in the form in which TVM's converters expect them."""
        return [self._nodes, self._params]

    def convert_node(self, op_type: str, inputs: Any, attributes: dict[str, Any], opset: int) -> relax.Expr:
        """Return the Relax expression of a node; the attribute `tvm_custom` holds its name and number of outputs."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called when all nodes have been converted."""

    def abandon(self) -> None:
        """Close the open Relax block after a failure; otherwise TVM writes a complaint to standard error."""
        self.bb._end_block()

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """Do nothing: TVM would refuse operators that only this package has converters for."""

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        super()._construct_nodes(graph)
        self.finish()

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> relax.Expr:
        return self.convert_node(op_name, inputs, attrs, opset)

    def _parse_attr(self, attr_proto: Sequence[onnx.AttributeProto]) -> dict[str, Any]:
        """Return the attributes' values by name; unlike TVM's own method, accept empty lists."""
        values = {a.name: onnx.helper.get_attribute_value(a) for a in attr_proto}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
