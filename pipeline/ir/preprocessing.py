"""How a picture becomes an input of a model. Programs carry this with them, and libraries record it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

MAX_SIDE = 2**16
"""Largest width or height to which a picture may be resized or cropped, in pixels."""

Size = tuple[int, int]
"""Width and height, in pixels."""


@dataclass(frozen=True)
class ImagePreprocessing:
    """The steps from a picture to an array, in this order; `samples.images` carries them out.

    Each pixel value v, 0 to 255, becomes `(v * scale - mean) / std`.

    Attributes:
        resize: width and height to resize to, or the new length of the shorter side, in pixels; None: not resized.
        crop: width and height of the part around the centre that is kept, in pixels; None: not cropped.
        channels: their order; "L" is the brightness alone.
        scale: factor of the pixel values.
        mean: what is subtracted then: one number, or one for each channel.
        std: what the difference is divided by: one number, or one for each channel.
        layout: of the array's axes, with a batch of 1.
    """

    resize: Size | int | None
    crop: Size | None
    channels: Literal["RGB", "BGR", "L"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["NCHW", "NHWC"]

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a size is out of range, the numbers don't fit the channels, or one of them isn't finite.
        """
        sizes = (*((self.resize,) if isinstance(self.resize, int) else self.resize or ()), *(self.crop or ()))
        if not all(1 <= size <= MAX_SIDE for size in sizes):
            raise ValueError(f"sizes of pictures are 1 to {MAX_SIDE} pixels, not {sizes}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, len(self.channels)):
                raise ValueError(f"{name} has {len(values)} numbers, pictures have {len(self.channels)} channels")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or 0 in self.std:
            raise ValueError("scale, mean and std must be finite, and std not 0")

    def __str__(self) -> str:
        """Return the steps as one line, for example `resized to 224x224, RGB, x / 255, NCHW`."""
        if self.resize is None:
            resized = []
        elif isinstance(self.resize, int):
            resized = [f"shorter side resized to {self.resize}"]
        else:
            resized = [f"resized to {self.resize[0]}x{self.resize[1]}"]
        cropped = [] if self.crop is None else [f"cropped to {self.crop[0]}x{self.crop[1]}"]
        return ", ".join([*resized, *cropped, self.channels, *self._values(), self.layout])

    def _values(self) -> list[str]:
        scaled = "x" if self.scale == 1 else "x / 255" if self.scale == 1 / 255 else f"x * {self.scale:g}"
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return [scaled] if self.scale != 1 else []
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return [f"({scaled} - [{mean}]) / [{std}]"]
