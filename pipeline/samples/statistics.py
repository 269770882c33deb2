"""What is odd about samples as such: too few, all the same, constant, zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ir.program import TensorSpec
from pipeline.samples.fitting import capitalized

Array = npt.NDArray[Any]

FEW_SAMPLES = 32
"""Fewer are worth a warning."""

MIN_VALUES = 16
"""An input of fewer values may well be constant: a size, or a threshold."""


@dataclass
class SampleStatistics:
    """Looks at samples as they pass by.

    Attributes:
        inputs: the model's.
        samples: how many there were.
        constant: how many samples are one value throughout, in an input of many floats.
        first_constant: what to say of the first of these.
        same: whether all were the same.
        first: the first one.
    """

    inputs: Sequence[TensorSpec]
    samples: int = 0
    constant: int = 0
    first_constant: str = ""
    same: bool = True
    first: Mapping[str, Array] = field(default_factory=dict)

    def update(self, name: str, feed: Mapping[str, Array], count: int) -> None:
        """Take a feed in.

        Args:
            name: what messages call it.
            feed: an array for each input.
            count: how many samples it is.
        """
        self.samples += count
        if not self.first:
            self.first = feed
            self.same = count == 1
        elif self.same:
            self.same = all(np.array_equal(value, self.first[key]) for key, value in feed.items())
        for spec in self.inputs:
            value = feed[spec.name]
            if value.dtype.kind == "f" and value.size >= MIN_VALUES and value.min() == value.max():
                if not self.constant:
                    self.first_constant = f"{capitalized(name)} is {value.flat[0]:g} throughout, in input {spec.name!r}"
                self.constant += 1

    def warnings(self) -> list[str]:
        """Return what to tell the user."""
        found = []
        if self.samples < FEW_SAMPLES:
            number = "1 sample" if self.samples == 1 else f"{self.samples} samples"
            found.append(
                f"Calibrated with {number} only: ranges that these don't show are clipped. "
                "100 to 500 typical ones are usual."
            )
        if self.samples > 1 and self.same:
            found.append(f"All {self.samples} samples are the same. Give different ones.")
        elif self.constant:
            more = f", and {self.constant - 1} more are such" if self.constant > 1 else ""
            found.append(f"{self.first_constant}{more}: that says nothing about what the model will see.")
        return found
