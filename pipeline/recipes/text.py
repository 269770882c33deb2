"""Lines of text as pictures: words and numbers in the DejaVu fonts, in many sizes and colours, with noise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import missing_extra
from pipeline.samples.images import pillow

Image: TypeAlias = Any
"""A picture of Pillow's, which is imported when one is made."""

FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)

WORDS = (
    "about above account across action address after again agree allow amount animal answer appear area arrive autumn "
    "balance beach before begin below between bicycle board border bottle bridge bright bring brother build business "
    "camera carry castle center chance change cheap child circle city clean clear close coffee color common company "
    "compare complete contain copper corner cost cotton country course cover cross current danger daily deep degree "
    "demand design detail dinner direct doctor double dream drive early earth eight electric empty engine enough "
    "evening every example express family farmer father feather field figure finish flower follow forest forward "
    "freedom fresh friend front garden general glass golden great green group guide hammer happy harbor heavy history "
    "holiday honest hotel hour house hundred"
)

SMALLEST, LARGEST = 12, 44
"""Sizes of fonts, pixels."""

MOST_NOISE = 60.0
"""Largest standard deviation of a picture's noise, of 255."""


def words(random: np.random.Generator) -> str:
    """Return one to three words or numbers, in lower, mixed or upper case."""
    return " ".join(_word(random) for _ in range(int(random.integers(1, 4))))


def _word(random: np.random.Generator) -> str:
    word, form = str(random.choice(WORDS.split())), int(random.integers(6))
    if form == 5:
        return str(int(random.integers(10, 100_000)))
    return word if form < 2 else word.capitalize() if form < 4 else word.upper()


def colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return background and ink, RGB: one of them light, the other dark."""
    light = tuple(int(v) for v in random.integers(150, 256, 3))
    dark = tuple(int(v) for v in random.integers(0, 100, 3))
    return (light, dark) if random.integers(2) else (dark, light)


def face(random: np.random.Generator) -> Any:
    """Return one of the fonts in a size.

    Raises:
        OptionError: the fonts aren't there; they come with Matplotlib.
    """
    name, size = str(random.choice(FACES)), int(random.integers(SMALLEST, LARGEST))
    return pillow().ImageFont.truetype(str(_folder() / f"{name}.ttf"), size)


def _folder() -> Path:
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise missing_extra("This recipe needs Matplotlib's fonts", "models")
    return Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"


def line(text: str, random: np.random.Generator) -> Image:
    """Return a picture of a line of text, as tall as the text and a margin, RGB."""
    pil = pillow()
    font, (background, ink) = face(random), colours(random)
    margin = int(random.integers(2, 8))
    left, top, right, bottom = (int(v) for v in font.getbbox(text))
    picture = pil.Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), background)
    pil.ImageDraw.Draw(picture).text((margin - left, margin - top), text, font=font, fill=ink)
    return noisy(picture, random)


def noisy(picture: Image, random: np.random.Generator) -> Image:
    """Return a picture with normally distributed noise, of a random strength."""
    strength = random.uniform(0, MOST_NOISE)
    pixels = np.asarray(picture, "float32") + random.normal(0, strength, (picture.height, picture.width, 3))
    return pillow().Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


def as_input(picture: Image, width: int) -> npt.NDArray[Any]:
    """Return a line as PP-OCR's models take it: [1,3,48,width] float32 BGR in [-1, 1], with zeros at its right.

    Lines are made 48 pixels tall, and narrower if they are too long then.
    """
    scaled_width = min(width, -(-48 * picture.width // picture.height))
    scaled = picture.resize((scaled_width, 48), pillow().Image.Resampling.BILINEAR)
    pixels = np.asarray(scaled, "float32")[:, :, ::-1]
    value = np.zeros((1, 3, 48, width), "float32")
    value[0, :, :, :scaled_width] = (pixels / 127.5 - 1).transpose(2, 0, 1)
    return value
