"""`Traits`, what passes may assume of any operator, and `Operator`, the base class of those in `pipeline.ops`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy.typing as npt

from pipeline.ir.types import TensorType

Array = npt.NDArray[Any]

_operators: dict[str, type[Operator]] = {}


class Traits:
    """What passes and quantization may assume of an operator, ours or Relax's.

    Every default is safe for any operator: where a class doesn't override it, an optimization is missed, and the
    result stays right.

    Class attributes:
        elementwise: value i of the result is a function of value i of each argument, broadcast as NumPy does.
        rowwise: each row of the result (along its last axis) is a function of the same row of the first argument; the
            other arguments are constants that apply to all rows.
        moves_values: each value of the result is a value of the first argument, or lies between some of its values.
            The integer form therefore keeps that argument's scale and zero point.
        sums_products: the operator sums products, as a convolution does. Its integer form accumulates in int32, and can
            return the sums as float32 instead of requantizing them.
        image_by_image: image n of the result depends on image n of the first argument and on all other arguments, which
            are constants. It is implied for elementwise operators.
    """

    elementwise: bool = False
    rowwise: bool = False
    moves_values: bool = False
    sums_products: bool = False
    image_by_image: bool = False

    def lower_bound(self, *bounds: float) -> float:
        """Return a proven lower bound of the result's values; minus infinity if there is none.

        Args:
            bounds: a lower bound of each argument's values.
        """
        del bounds
        return -math.inf

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether image n of the result depends on image n of each activation and on whole constants only.

        Args:
            inputs: types of all arguments. The first axis of each activation is as long as that of the result.
            constants: indices of the arguments that are constant; all others are activations.
        """
        if not self.elementwise:
            return self.image_by_image and set(constants) == set(range(1, len(inputs)))
        # An operand of lower rank is aligned at the last axis, so its first axis isn't the batch.
        rank = max(len(t.shape) for t in inputs)
        broadcast = (t.shape[:1] == (1,) or len(t.shape) < rank for i, t in enumerate(inputs) if i in constants)
        return all(broadcast) and all(len(t.shape) == rank for i, t in enumerate(inputs) if i not in constants)

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return the number of multiply-adds in the operator's definition; 0 if it sums no products.

        Args:
            inputs: types of all arguments.
        """
        del inputs
        return 0

    def overflow_reason(self, *inputs: TensorType) -> str | None:
        """Return why sums of the integer form could overflow int32; None if no quantized values can make them.

        Args:
            inputs: types of all arguments of the float operator.
        """
        del inputs
        return "its sums aren't proven to fit 32 bits"

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result, computed by the operator's definition in NumPy: the reference that kernels are tested by.

        Args:
            arguments: the tensors that the operator reads.

        Raises:
            NotImplementedError: the operator has no reference.
        """
        raise NotImplementedError(f"{type(self).__name__} has no NumPy reference")


@dataclass(frozen=True)
class Operator(Traits):
    """Base of our operators. Defining a subclass with a `name` registers it under that name.

    Class attributes:
        name: the operator's name in programs, for example `qnn.conv2d`.
        arguments: names of the tensor arguments, in order.
    """

    name: ClassVar[str]
    arguments: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls):
            known = _operators.setdefault(cls.name, cls)
            if known is not cls:
                raise TypeError(f"{cls.__qualname__} and {known.__qualname__} are both named {cls.name}")

    @property
    def arity(self) -> int:
        """Number of tensor arguments."""
        return len(self.arguments)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the type of the result for arguments of these types.

        Raises:
            ValueError: the types don't fit each other.
        """
        raise TypeError(f"{type(self).__name__} doesn't say what it returns")

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes that aren't None, as lists, numbers and strings."""
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields if v is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Operator:
        """Return the operator that has these attributes, as `to_dict` returned them."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: _plain(values[k]) for k in values if k in known})


def operators() -> Mapping[str, type[Operator]]:
    """Return our operators' classes by name; importing `pipeline.ops` registers all of them."""
    return MappingProxyType(_operators)


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    return tuple(_plain(v) for v in value)
