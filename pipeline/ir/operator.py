"""What all operators have in common; the modules of `ops` specify them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.ir.types import TensorType


@dataclass(frozen=True)
class Operator:
    """Base of all operator descriptions.

    Class attributes:
        name: the operator's name in the program, e.g. `qnn.conv2d`.
        arguments: names of the tensor arguments, in order.
    """

    name: ClassVar[str]
    arguments: ClassVar[tuple[str, ...]]

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
        """Build the description from what `to_dict` returned (or Relax's `DictAttrs`)."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: _plain(values[k]) for k in values if k in known})


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    return tuple(_plain(v) for v in value)


@dataclass(frozen=True)
class Requantized(Operator):
    """Base of operators that end in a uint8 tensor.

    Their last step is `y = uint8(min(max(q + output_zero_point, output_min), output_max))` with an int32 `q`; a fused
    activation is nothing but a tighter [output_min, output_max].
    """

    output_zero_point: int = 0
    output_min: int = 0
    output_max: int = 255
