"""How a picture becomes an input of a model: what travels with a program, and is recorded in its libraries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

MAX_SIDE = 2**16
"""Of what a picture is resized or cropped to, in pixels."""

Size = tuple[int, int]
"""Width and height, in pixels."""


@dataclass(frozen=True)
class ImagePreprocessing:
    """The steps from a picture to an array, in order; `samples.images` carries them out.

    Attributes:
        resize: to this width and height; or so that the shorter side has this length; None leaves the size.
        crop: this much around the centre; None leaves all.
        channels: in this order; L is brightness alone.
        scale: a pixel's values, 0 to 255, are multiplied by it;
        mean: then this is subtracted, one number for each channel or one for all;
        std: then it is divided by this.
        layout: of the array, its batch included.
    """

    resize: Size | int | None
    crop: Size | None
    channels: Literal["RGB", "BGR", "L"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["NCHW", "NHWC"]

    def __post_init__(self) -> None:
        """Refuse steps that can't be taken; when metadata is read, this is an error of decoding it."""
        sizes = (*((self.resize,) if isinstance(self.resize, int) else self.resize or ()), *(self.crop or ()))
        if not all(1 <= size <= MAX_SIDE for size in sizes):
            raise ValueError(f"sizes of pictures are 1 to {MAX_SIDE} pixels, not {sizes}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, len(self.channels)):
                raise ValueError(f"{name} has {len(values)} numbers, pictures have {len(self.channels)} channels")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or 0 in self.std:
            raise ValueError("scale, mean and std must be finite, and std not 0")

    def __str__(self) -> str:
        """Return the steps for people."""
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
