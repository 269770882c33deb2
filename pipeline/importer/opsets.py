"""Upgrades nodes of operator sets before 13 to nodes of set 13.

Before -> after, for example: `Squeeze(x, axes=[2])` becomes `Squeeze(x, [2])`, and `Upsample(x, scales)` becomes a
`Resize` with the coordinates that Upsample had. ONNX's own version converter isn't used, as it changes the results of
linear `Upsample` and `Resize`, and lacks some operator sets before 7.

Sources: the changelog of ONNX's operators; ONNX Runtime for how set 10 rounds in nearest-neighbour resizing, which the
standard leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pipeline.errors import ModelError

Array = npt.NDArray[Any]

MIN_OPSET = 13
"""The oldest operator set that converters understand."""


@dataclass(frozen=True)
class OldNode:
    """A node of an old operator set, with access to the graph around it.

    Attributes:
        proto: the node.
        attributes: values of its attributes by name; strings are bytes.
        shape: returns the shape of a tensor, given its name; None if it isn't known.
        value: returns the value of a tensor, given its name; None if it isn't constant.
        constant: adds a constant to the graph and returns its name.
        new_name: returns an unused name for a tensor between two nodes.
    """

    proto: onnx.NodeProto
    attributes: Mapping[str, Any]
    shape: Callable[[str], tuple[int, ...] | None]
    value: Callable[[str], Array | None]
    constant: Callable[[Array], str]
    new_name: Callable[[], str]

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs; "" where an optional one isn't given."""
        return list(self.proto.input)

    def known_shape(self, index: int) -> tuple[int, ...]:
        """Return an input's shape.

        Raises:
            ModelError: the shape isn't known, so the node can't be upgraded.
        """
        shape = self.shape(self.inputs[index])
        if shape is None:
            raise ModelError(
                f"{self.proto.op_type} {self.proto.name!r}: the shape of its input {self.inputs[index]!r} isn't known. "
                f"Export the model for operator set {MIN_OPSET} or newer."
            )
        return shape

    def rewritten(
        self, inputs: Sequence[str], without: Sequence[str] = (), op_type: str | None = None, **added: Any
    ) -> onnx.NodeProto:
        """Return the node with other inputs and attributes.

        Args:
            inputs: names of the new node's inputs.
            without: names of attributes that are left out.
            op_type: the new node's operator; by default the same.
            **added: attributes that are added or replaced.
        """
        kept = {k: v for k, v in self.attributes.items() if k not in without} | added
        return helper.make_node(op_type or self.proto.op_type, inputs, list(self.proto.output), self.proto.name, **kept)


Nodes = list[onnx.NodeProto]


def upgrade(node: OldNode, opset: int) -> Nodes:
    """Return one or several nodes of set 13 that compute the same as a node; the node itself if nothing has changed.

    Args:
        node: a node of the operator set `opset`.
        opset: version of the operator set, below 13.

    Raises:
        ModelError: operator set 13 can't express the node.
    """
    op_type = node.proto.op_type
    if opset < 6 and "consumed_inputs" in node.attributes:
        node = _with_proto(node, node.rewritten(node.inputs, without=("consumed_inputs",)))
    if opset < 7 and op_type in _BROADCASTING:
        return _broadcasting(node)
    for last, rewrite in _CHANGES.get(op_type, ()):
        if opset <= last:
            return rewrite(node)
    return [node.proto]


def _with_proto(node: OldNode, proto: onnx.NodeProto) -> OldNode:
    kept = {k: v for k, v in node.attributes.items() if k in {a.name for a in proto.attribute}}
    return OldNode(proto, kept, node.shape, node.value, node.constant, node.new_name)


_BROADCASTING = frozenset({"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "PRelu", "Sub", "Xor"})


def _broadcasting(node: OldNode) -> Nodes:
    """Sets 1 to 6: the second operand is aligned with the first one's axes from `axis` on, by default with the last."""
    inputs = node.inputs
    axis = node.attributes.get("axis")
    plain = node.rewritten(inputs, without=("axis", "broadcast"))
    if not node.attributes.get("broadcast") or axis is None:
        return [plain]
    left, right = node.known_shape(0), node.known_shape(1)
    behind = len(left) - int(axis) % len(left) - len(right)
    if behind <= 0:
        return [plain]
    aligned = node.new_name()
    shape = node.constant(np.array([*right, *[1] * behind], "int64"))
    return [
        helper.make_node("Reshape", [inputs[1], shape], [aligned]),
        node.rewritten([inputs[0], aligned], without=("axis", "broadcast")),
    ]


def _attribute_to_input(attribute: str) -> Callable[[OldNode], Nodes]:
    def rewrite(node: OldNode) -> Nodes:
        if attribute not in node.attributes:
            return [node.proto]
        value = node.constant(np.array(node.attributes[attribute], "int64"))
        return [node.rewritten([node.inputs[0], value], without=(attribute,))]

    return rewrite


def _cast(node: OldNode) -> Nodes:
    name = node.attributes["to"].decode("ascii", "replace").upper()
    if name not in dict(TensorProto.DataType.items()):
        raise ModelError(f"Cast {node.proto.name!r}: there is no type {name!r}.")
    return [node.rewritten(node.inputs, without=("to",), to=TensorProto.DataType.Value(name))]


def _clip(node: OldNode) -> Nodes:
    limits = [
        node.constant(np.array(node.attributes[k], "float32")) if k in node.attributes else "" for k in ("min", "max")
    ]
    return [node.rewritten([node.inputs[0], *limits], without=("min", "max"))]


def _concat(node: OldNode) -> Nodes:
    return [node.rewritten(node.inputs, axis=node.attributes.get("axis", 1))]


def _dropout(node: OldNode) -> Nodes:
    """Sets 1 to 11: at inference, Dropout returns its input."""
    return [node.rewritten(node.inputs[:1], without=("ratio", "is_test", "seed"))]


def _flat_rows(node: OldNode) -> Nodes:
    """Sets 1 to 12: Softmax, LogSoftmax and Hardmax see x as a matrix, whose rows are all axes from `axis` on."""
    shape = node.known_shape(0)
    axis = node.attributes.get("axis", 1)
    axis = axis % len(shape) if shape else 0
    if axis == len(shape) - 1:
        return [node.rewritten(node.inputs, axis=-1)]
    rows = int(np.prod(shape[:axis], dtype="int64"))
    flat, result = node.new_name(), node.new_name()
    to_rows, to_shape = node.constant(np.array([rows, -1], "int64")), node.constant(np.array(shape, "int64"))
    inner = helper.make_node(node.proto.op_type, [flat], [result], node.proto.name, axis=-1)
    return [
        helper.make_node("Reshape", [node.inputs[0], to_rows], [flat]),
        inner,
        helper.make_node("Reshape", [result, to_shape], list(node.proto.output)),
    ]


def _gemm(node: OldNode) -> Nodes:
    return [node.rewritten(node.inputs, without=("broadcast",))]


def _lp_pool(node: OldNode) -> Nodes:
    return [node.rewritten(node.inputs, p=int(node.attributes.get("p", 2)))]


def _batch_normalization(node: OldNode) -> Nodes:
    if node.attributes.get("spatial", 1) != 1:
        raise ModelError(
            f"BatchNormalization {node.proto.name!r} normalizes each pixel separately (spatial=0), which operator sets "
            "from 9 on don't support. Export the model again."
        )
    proto = node.rewritten(node.inputs, without=("spatial", "is_test"))
    # The other outputs are statistics of training, which inference doesn't use.
    del proto.output[1:]
    return [proto]


def _pad(node: OldNode) -> Nodes:
    pads = node.attributes.get("pads", node.attributes.get("paddings"))
    if pads is None:
        raise ModelError(f"Pad {node.proto.name!r} has no pads. Export the model again.")
    value = node.constant(np.array(node.attributes.get("value", 0.0), "float32"))
    amounts = node.constant(np.array(pads, "int64"))
    return [node.rewritten([node.inputs[0], amounts, value], without=("pads", "paddings", "value"))]


def _slice(node: OldNode) -> Nodes:
    given = [node.constant(np.array(node.attributes[k], "int64")) for k in ("starts", "ends")]
    if "axes" in node.attributes:
        given.append(node.constant(np.array(node.attributes["axes"], "int64")))
    return [node.rewritten([node.inputs[0], *given], without=("starts", "ends", "axes"))]


def _tile(node: OldNode) -> Nodes:
    """Set 1: the inputs are a number of repetitions and one axis."""
    tiles, axis = (node.value(name) for name in node.inputs[1:3])
    if tiles is None or axis is None:
        raise ModelError(f"Tile {node.proto.name!r}: how often it repeats isn't constant. Export the model again.")
    repeats = np.ones(len(node.known_shape(0)), "int64")
    repeats[int(axis.reshape(-1)[0])] = int(tiles.reshape(-1)[0])
    return [node.rewritten([node.inputs[0], node.constant(repeats)])]


def _top_k(node: OldNode) -> Nodes:
    count = node.constant(np.array([node.attributes["k"]], "int64"))
    return [node.rewritten([node.inputs[0], count], without=("k",))]


def _upsample_1(node: OldNode) -> Nodes:
    scales = [1.0, 1.0, node.attributes["height_scale"], node.attributes["width_scale"]]
    return _resize(node, node.constant(np.array(scales, "float32")))


def _upsample_7(node: OldNode) -> Nodes:
    return _resize(node, node.constant(np.array(node.attributes["scales"], "float32")))


def _resize_10(node: OldNode) -> Nodes:
    return _resize(node, node.inputs[1])


def _resize(node: OldNode, scales: str) -> Nodes:
    """Sets 1 to 10: coordinates are `index / scale`; nearest-neighbour rounds down to enlarge, and up to shrink."""
    mode = node.attributes.get("mode", b"nearest")
    mode = mode.decode("ascii", "replace") if isinstance(mode, bytes) else mode
    kept = {
        "mode": "linear" if mode in ("linear", "bilinear") else mode,
        "coordinate_transformation_mode": "asymmetric",
    }
    x, output = node.inputs[0], list(node.proto.output)
    value = node.value(scales)
    if mode == "linear":
        return [helper.make_node("Resize", [x, "", scales], output, node.proto.name, **kept)]
    if value is None or (value >= 1).all():
        return [helper.make_node("Resize", [x, "", scales], output, node.proto.name, nearest_mode="floor", **kept)]
    smaller, larger = (node.constant(limit(value, np.float32(1))) for limit in (np.minimum, np.maximum))
    between = node.new_name()
    return [
        helper.make_node("Resize", [x, "", smaller], [between], nearest_mode="ceil", **kept),
        helper.make_node("Resize", [between, "", larger], output, node.proto.name, nearest_mode="floor", **kept),
    ]


_CHANGES: Mapping[str, tuple[tuple[int, Callable[[OldNode], Nodes]], ...]] = {
    "BatchNormalization": ((8, _batch_normalization),),
    "Cast": ((5, _cast),),
    "Clip": ((10, _clip),),
    "Concat": ((3, _concat),),
    "Dropout": ((11, _dropout),),
    "Gemm": ((6, _gemm),),
    "GlobalLpPool": ((1, _lp_pool),),
    "Hardmax": ((12, _flat_rows),),
    "LogSoftmax": ((12, _flat_rows),),
    "LpPool": ((1, _lp_pool),),
    "Pad": ((10, _pad),),
    "ReduceSum": ((12, _attribute_to_input("axes")),),
    "Reshape": ((4, _attribute_to_input("shape")),),
    "Resize": ((10, _resize_10),),
    "Slice": ((9, _slice),),
    "Softmax": ((12, _flat_rows),),
    "Split": ((12, _attribute_to_input("split")),),
    "Squeeze": ((12, _attribute_to_input("axes")),),
    "Tile": ((5, _tile),),
    "TopK": ((9, _top_k),),
    "Unsqueeze": ((12, _attribute_to_input("axes")),),
    "Upsample": ((6, _upsample_1), (8, _upsample_7), (10, _resize_10)),
}
"""Operator -> pairs (last operator set with an old form, function that upgrades it), oldest first."""
