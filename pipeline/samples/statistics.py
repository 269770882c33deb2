"""Warns of samples that can't be typical ones: too few, all the same, or constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from pipeline.files import arrays_digest
from pipeline.ir.program import TensorSpec
from pipeline.samples.fitting import capitalized

Array = npt.NDArray[Any]

FEW_SAMPLES = 32
"""A warning is given if there are fewer samples than this."""

MIN_VALUES = 16
"""An input with fewer values than this may be constant for a good reason, as a size or a threshold."""


@dataclass
class SampleStatistics:
    """Sees each feed once, and counts what is unusual.

    Attributes:
        inputs: the model's inputs.
        samples: how many samples were seen.
        constant: how many arrays of `MIN_VALUES` or more floats had the same value everywhere.
        first_constant: the message for the first of these; "" if there was none.
        same: whether all samples so far were the same.
        first: SHA-256 of the first feed; b"" before it.
    """

    inputs: Sequence[TensorSpec]
    samples: int = 0
    constant: int = 0
    first_constant: str = ""
    same: bool = True
    first: bytes = b""

    def update(self, name: str, feed: Mapping[str, Array], count: int) -> None:
        """Count a feed.

        Args:
            name: its name in messages.
            feed: an array for each input, by name.
            count: how many samples it contains.
        """
        self.samples += count
        if not self.first:
            self.first = arrays_digest(feed)
            self.same = count == 1
        elif self.same:
            self.same = arrays_digest(feed) == self.first
        for spec in self.inputs:
            value = feed[spec.name]
            if value.dtype.kind == "f" and value.size >= MIN_VALUES and value.min() == value.max():
                if not self.constant:
                    self.first_constant = f"{capitalized(name)} is {value.flat[0]:g} throughout, in input {spec.name!r}"
                self.constant += 1

    def merge(self, other: SampleStatistics) -> None:
        """Take in what others have seen of the samples that are next; there are some."""
        self.same = other.same and (not self.first or (self.same and other.first == self.first))
        self.first = self.first or other.first
        self.samples += other.samples
        self.constant += other.constant
        self.first_constant = self.first_constant or other.first_constant

    def warnings(self) -> list[str]:
        """Return the warnings for the user, in sentences."""
        found = []
        if self.samples < FEW_SAMPLES:
            number = "1 sample" if self.samples == 1 else f"{self.samples} samples"
            found.append(
                f"Calibrated with {number} only: values outside of their ranges will be clipped. "
                "100 to 500 typical ones are usual."
            )
        if self.samples > 1 and self.same:
            found.append(f"All {self.samples} samples are the same. Give different ones.")
        elif self.constant:
            more = f", and {self.constant - 1} more are such" if self.constant > 1 else ""
            found.append(f"{self.first_constant}{more}: that says nothing about what the model will see.")
        return found
