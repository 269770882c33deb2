"""What programs' operators are: what is asked of any of them, and the base of our own, which `ops` specifies."""

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
    """What passes and quantization ask of an operator, be it ours or Relax's.

    Each answer by default is one that is right for all operators, so that one that says nothing of itself is only slow.

    Class attributes:
        elementwise: value i of the result is a function of value i of each argument, which are broadcast as NumPy does.
        rowwise: a row along the last axis of the result is a function of the same row of the first argument; the
            others are constants that all rows have in common.
        moves_values: all values of the result are values of the first argument, or lie between some of them. As an
            integer operator it gives the same quantized values, with the scale and zero point of that argument.
        sums_products: it sums products, in int32 as an integer operator, which then can give the sums as float32, too.
        image_by_image: image n of the result is made of image n of the first argument, and of all others, which are
            constants. Elementwise operators needn't say it.
    """

    elementwise: bool = False
    rowwise: bool = False
    moves_values: bool = False
    sums_products: bool = False
    image_by_image: bool = False

    def lower_bound(self, *bounds: float) -> float:
        """Return a value that the result never falls below; minus infinity if nothing can be proven.

        Args:
            bounds: the same of each argument.
        """
        del bounds
        return -math.inf

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether image n of the result is made of image n of each activation, and of whole constants.

        Args:
            inputs: types of all arguments. The first axes of those that aren't constant are as long as the result's.
            constants: which of them are constant.
        """
        if not self.elementwise:
            return self.image_by_image and set(constants) == set(range(1, len(inputs)))
        # A tensor of fewer axes has another one where the others have the batch, if equally long.
        rank = max(len(t.shape) for t in inputs)
        broadcast = (t.shape[:1] == (1,) or len(t.shape) < rank for i, t in enumerate(inputs) if i in constants)
        return all(broadcast) and all(len(t.shape) == rank for i, t in enumerate(inputs) if i not in constants)

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return how many multiply-adds its sums of products are by their definition, whatever kernel computes them.

        Args:
            inputs: types of all arguments.
        """
        del inputs
        return 0

    def may_overflow(self, *inputs: TensorType) -> str | None:
        """Return why a sum of its integer form may exceed int32; None if none does, whatever the quantized values.

        Args:
            inputs: types of all arguments.
        """
        del inputs
        return "its sums aren't proven to fit 32 bits"

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result by the operator's definition, in NumPy: the reference that kernels are held against.

        Args:
            arguments: the tensors that it reads.

        Raises:
            NotImplementedError: it has no reference.
        """
        raise NotImplementedError(f"{type(self).__name__} has no NumPy reference")


@dataclass(frozen=True)
class Operator(Traits):
    """Base of our operators. A class with a `name` is known to programs under it from its definition on.

    Class attributes:
        name: the operator's name in the program, e.g. `qnn.conv2d`.
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
        """Return the output's type for these argument types."""
        raise TypeError(f"{type(self).__name__} doesn't say what it returns")

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes that are set, as plain lists, numbers and strings."""
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields if v is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Operator:
        """Build the operator from what `to_dict` returned (or Relax's `DictAttrs`)."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: _plain(values[k]) for k in values if k in known})


def operators() -> Mapping[str, type[Operator]]:
    """Return our operators by name: all, as soon as `ops` has been imported."""
    return MappingProxyType(_operators)


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    return tuple(_plain(v) for v in value)
