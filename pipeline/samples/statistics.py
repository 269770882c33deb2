"""What is odd about samples as such: too few, all the same, constant, zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ir.program import TensorSpec
from pipeline.samples.fitting import sentence

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
        constant: of the samples that are one value throughout, in an input of many floats: how many, and what to say
            of the first.
        same: whether all were the same.
        first: the first one.
    """

    inputs: Sequence[TensorSpec]
    samples: int = 0
    constant: list[str] = field(default_factory=list)
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
                level = value.flat[0]
                self.constant.append(f"{sentence(name)} is {level:g} throughout, in input {spec.name!r}")

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
            more = f", and {len(self.constant) - 1} more are such" if len(self.constant) > 1 else ""
            found.append(f"{self.constant[0]}{more}: that says nothing about what the model will see.")
        return found
