"""What an observer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy.typing as npt

from pipeline.quantization.observers.readers import AS_IT_IS, Array, Reader
from pipeline.quantization.spec import Choice, QuantizationSpec
from pipeline.schema import Record


class NoOptions(Record, frozen=True, kw_only=True):
    """An algorithm without options."""


class Observer(ABC):
    """Sees each batch of a tensor's values once, and chooses scale and zero point.

    Its memory doesn't grow with the number of values. Neither their order nor how they are split among observers that
    are merged changes the choice, not by a bit.

    Class attributes:
        algorithm: its name in options and tables.
        options: its options, a record with defaults; the class is made with one.
        ordered: whether it is an exception: the values' order, and so merging, makes a difference.
        on_all_cores: whether `update` itself runs on all cores.

    Attributes:
        minimum: smallest value seen; infinity before the first.
        maximum: largest value seen; minus infinity before the first.
    """

    algorithm: ClassVar[str]
    options: ClassVar[type[Record]] = NoOptions
    ordered: ClassVar[bool] = False
    on_all_cores: ClassVar[bool] = False

    minimum: float
    maximum: float

    @abstractmethod
    def __init__(self, options: Any) -> None:
        """Begin with nothing seen; `options` is a record of the class's `options`."""

    @abstractmethod
    def update(self, values: npt.NDArray[Any]) -> None:
        """Take in the tensor's values for one batch: any shape, float32, finite."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Take in what an observer of the same class and options has seen."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """Return all that it has seen, as arrays of numbers or text, for a file or another process."""

    @abstractmethod
    def restore(self, state: Mapping[str, Array]) -> None:
        """Become what an observer of the same class and options was, whose state this is."""

    @abstractmethod
    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """Return scale and zero point for a tensor that is to be quantized like this.

        Args:
            spec: with `symmetric` decided.
            readers: what becomes of the tensor's values where they are read; at least one.

        Raises:
            ScaleTooLargeError: the values are too large for any scale.
        """
