"""`Node`, an ONNX node to be converted: access to its inputs and attributes, and helpers that converters share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from pipeline.errors import ModelError
from pipeline.importer.frontend.fallback import convert_by_tvm
from pipeline.ir import dataflow
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import make_constant
from pipeline.ir.types import TensorType

Array = npt.NDArray[Any]
NHWC = [0, 2, 3, 1]
NCHW = [0, 3, 1, 2]


@dataclass(frozen=True)
class Node:
    """An ONNX node of operator set 13 or newer, whose inputs are Relax expressions.

    Attributes:
        op_type: the ONNX operator.
        builder: the BlockBuilder that converters write to.
        inputs: the inputs; None for missing optional ones.
        attributes: attributes by name, as TVM's importer reads them: strings are bytes.
        scope: the graph's tensors in the form that TVM's own converters expect.
    """

    op_type: str
    builder: Any
    inputs: Sequence[relax.Expr | None]
    attributes: Mapping[str, Any]
    scope: Any

    @property
    def x(self) -> relax.Expr:
        """The first input."""
        return self.required(0)

    @property
    def shape(self) -> tuple[int, ...]:
        """The first input's shape."""
        return tensor_type(self.x).shape

    @property
    def dtype(self) -> str:
        """The first input's dtype."""
        return tensor_type(self.x).dtype

    @property
    def result_count(self) -> int:
        """The number of the node's outputs, up to the last one that is used."""
        return int(self.attributes["tvm_custom"]["num_outputs"])

    @property
    def opset(self) -> int:
        """Version of the operator set of the model."""
        return int(self.attributes["tvm_custom"]["opset"])

    def optional(self, index: int) -> relax.Expr | None:
        """Return an input; None if it is missing."""
        return self.inputs[index] if index < len(self.inputs) else None

    def required(self, index: int) -> relax.Expr:
        """Return an input.

        Raises:
            ModelError: it is missing.
        """
        expr = self.optional(index)
        if expr is None:
            raise ModelError(f"its input {index} is missing")
        return expr

    def input_type(self, index: int) -> TensorType:
        """Return the shape and dtype of an input."""
        return tensor_type(self.required(index))

    def constant(self, index: int) -> Array | None:
        """Return an input's value; None if it is missing or isn't constant."""
        expr = self.optional(index)
        return None if expr is None else dataflow.constant(expr)

    def checked_constant(self, index: int, meaning: str) -> Array | None:
        """Return the value of an input that must be constant; None if it is missing.

        Args:
            index: the input's index.
            meaning: what the input is, for the message.

        Raises:
            ModelError: the input isn't constant.
        """
        if self.optional(index) is None:
            return None
        value = self.constant(index)
        if value is None:
            raise ModelError(f"{meaning} must be constant, not computed from the model's inputs")
        return value

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a string."""
        value = self.attributes.get(name, default)
        return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)

    def flag(self, name: str, default: int = 0) -> bool:
        """Return an attribute that is 0 or 1, as a bool."""
        return bool(self.attributes.get(name, default))

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """Return an attribute that is a list of integers."""
        return tuple(int(v) for v in self.attributes.get(name, default))

    def axis(self, default: int) -> int:
        """Return the attribute `axis`, as `normalized_axis` does."""
        return self.normalized_axis(int(self.attributes.get("axis", default)))

    def normalized_axis(self, axis: int) -> int:
        """Return an axis of the first input, which may be negative, as a number from 0.

        Raises:
            ModelError: there is no such axis.
        """
        rank = len(self.shape)
        if not -rank <= axis < max(rank, 1):
            raise ModelError(f"its input has {rank} dimensions, none of which is axis {axis}")
        return axis % rank if rank else 0

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Append a binding of an expression, and return its variable."""
        return self.builder.emit(self.builder.normalize(expr), name_hint="tensor")

    def convert_by_tvm(self) -> relax.Expr:
        """Return the expression that TVM's own converter makes of the node.

        Raises:
            ModelError: TVM can't convert the node.
        """
        return convert_by_tvm(self.op_type, self.builder, self.inputs, self.attributes, self.scope)


Convert = Callable[[Node], relax.Expr]


def scalar(value: float | bool, dtype: str) -> relax.Expr:
    """Return a scalar constant."""
    return make_constant(np.array(value, dtype))


def integers(values: npt.ArrayLike) -> relax.Expr:
    """Return an int64 constant."""
    return make_constant(np.asarray(values, "int64"))


def along(values: Array, axis: int, rank: int) -> Array:
    """Return a vector reshaped so that it is broadcast along one axis of a tensor of the given rank."""
    return values.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1))


def take(x: relax.Expr, indices: Array, axis: int) -> relax.Expr:
    """Return the slices of x along an axis at constant indices, which must be in range."""
    return relax.op.take(x, integers(indices), axis, mode="clip")


def is_float(dtype: str) -> bool:
    """Return whether a dtype is a floating-point type."""
    return dtype.startswith(("float", "bfloat"))
