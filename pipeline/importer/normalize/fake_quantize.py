"""FakeQuantize: a pair of QuantizeLinear and DequantizeLinear becomes float operators that compute the same.

Before -> after: `DequantizeLinear(QuantizeLinear(x, s, z), s, z)` becomes `clip(round(x / s), low, high) * s`, where
low and high are the limits of the integer type minus z. Models that were quantized before have such pairs around their
weights and activations. They become float models with exactly the same results; when one is quantized again, each of
these functions becomes a lookup table.

Precondition: constants are folded, so that pairs around weights are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

_LIMITS = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
}
"""Least and largest value of each integer type that a tensor can be quantized to."""


def fake_quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with pairs of quantization and its inverse replaced; see the module's docstring.

    Args:
        model: a specialized model in float32; changed in place.
    """
    return _QuantizationPairs(model).replace()


class _QuantizationPairs:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {t.name: t for t in model.graph.initializer}
        values = (*model.graph.value_info, *model.graph.input)
        self.ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
        self.quantizers = {n.output[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}

    def replace(self) -> onnx.ModelProto:
        graph = self.model.graph
        nodes = [part for node in graph.node for part in self._replacement(node)]
        read = {name for node in nodes for name in node.input} | {o.name for o in graph.output}
        kept = [n for n in nodes if n.op_type != "QuantizeLinear" or n.output[0] in read]
        del graph.node[:]
        graph.node.extend(kept)
        return self.model

    def _replacement(self, node: NodeProto) -> Iterator[NodeProto]:
        quantizer = self.quantizers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        parameters = None if quantizer is None else self._parameters(quantizer)
        if quantizer is None or parameters is None or not self._is_inverse(node, quantizer):
            yield node
            return
        name = node.output[0]
        scale, low, high = (self._constant(f"{name}.parameter{k}", v) for k, v in enumerate(parameters))
        last = quantizer.input[0]
        one = parameters[0].size == 1
        limits = (("Clip", [low, high]),) if one else (("Max", [low]), ("Min", [high]))
        for op_type, operands in (("Div", [scale]), ("Round", []), *limits):
            step = f"{name}.{op_type.lower()}"
            yield helper.make_node(op_type, [last, *operands], [step], step)
            last = step
        yield helper.make_node("Mul", [last, scale], [name], name)

    def _parameters(self, quantizer: NodeProto) -> tuple[Array, Array, Array] | None:
        """Return scale, low and high as in the module's docstring, shaped to be broadcast to the tensor.

        None if one of them isn't constant, or quantization is by blocks.
        """
        attributes = {a.name: helper.get_attribute_value(a) for a in quantizer.attribute}
        scale = self._value(quantizer, 1)
        zero_point = self._value(quantizer, 2)
        dtype = attributes.get("output_dtype") or TensorProto.UINT8
        if len(quantizer.input) > 2 and quantizer.input[2]:
            if zero_point is None:
                return None
            dtype = self.constants[quantizer.input[2]].data_type
        rank = self.ranks.get(quantizer.input[0])
        if scale is None or dtype not in _LIMITS or attributes.get("block_size") or scale.ndim > 1:
            return None
        if scale.ndim == 1 and scale.size > 1 and rank is None:
            return None
        shape: tuple[int, ...] = ()
        if scale.size > 1 and rank is not None:
            axis = _axis(quantizer) % rank
            shape = (-1,) + (1,) * (rank - 1 - axis)
        zero = np.zeros(scale.shape) if zero_point is None else zero_point.astype("float64")
        low, high = (np.broadcast_to(limit - zero, scale.shape).astype("float32") for limit in _LIMITS[dtype])
        return scale.reshape(shape), low.reshape(shape), high.reshape(shape)

    def _is_inverse(self, node: NodeProto, quantizer: NodeProto) -> bool:
        scale, other = self._value(node, 1), self._value(quantizer, 1)
        if scale is None or other is None or not np.array_equal(scale, other):
            return False
        zeros = [0 if z is None else z for z in (self._value(node, 2), self._value(quantizer, 2))]
        return bool(np.all(zeros[0] == zeros[1])) and (scale.size == 1 or _axis(node) == _axis(quantizer))

    def _value(self, node: NodeProto, index: int) -> Array | None:
        name = node.input[index] if len(node.input) > index else ""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def _constant(self, name: str, value: Array) -> str:
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.model.graph.initializer.append(tensor)
        return name


def _axis(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 1)
