"""`RelaxOperator`, the base of the classes that describe Relax's operators, and their registry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from tvm import relax

from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding
from pipeline.ir.operator import Traits
from pipeline.ir.types import TensorType

_relax_operators: dict[str, type[RelaxOperator]] = {}


class RelaxOperator(Traits):
    """A call of one of Relax's operators, with what may be assumed of it. Defining a subclass registers its `names`.

    Class attributes:
        names: the operators that the class describes, for example `relax.reshape`.

    Args:
        binding: the binding whose value is the call.
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, binding: Binding) -> None:
        self.binding = binding

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _relax_operators.update(dict.fromkeys(vars(cls).get("names", ()), cls))

    @property
    def name(self) -> str:
        """The operator's name, without `relax.`."""
        return self.binding.operator.removeprefix("relax.")

    @property
    def output(self) -> TensorType:
        """Type of the result."""
        return tensor_type(self.binding.var)

    @property
    def call(self) -> relax.Call:
        """The Relax call, with its attributes, and with arguments that aren't tensors, such as shapes."""
        return self.binding.value

    def attribute(self, name: str) -> Any:
        """Return the value of one of the call's attributes."""
        return self.call.attrs[name]


def relax_operators() -> Mapping[str, type[RelaxOperator]]:
    """Return the classes that describe Relax's operators, by the operators' names."""
    return MappingProxyType(_relax_operators)


def relax_names(names: str) -> tuple[str, ...]:
    """Return full names of operators, given the names without `relax.`, separated by spaces."""
    return tuple(f"relax.{name}" for name in names.split())
