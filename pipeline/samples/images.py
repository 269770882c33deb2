"""Pictures as inputs: decoded, resized, cropped and normalized, as torchvision's transforms do it.

A picture is turned upright as its EXIF data says, and becomes RGB, or brightness alone for models of one channel.
`Resize` is Pillow's bilinear one, which averages where it makes a picture smaller; `CenterCrop` rounds to even. Values
are computed in float64 and rounded once, so they depend on nothing but the pixels.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.options import ImageOptions
from pipeline.errors import OptionError, SampleError
from pipeline.ir.preprocessing import ImagePreprocessing, Size
from pipeline.ir.program import TensorSpec

Array = npt.NDArray[Any]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of files that hold pictures."""

MAX_PIXELS = 2**27
"""Of a picture, as it is in its file and as it is resized."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Of Pillow's, those that are plain pictures: others start programs, or read further files."""

_DEEP_MODES = ("I", "F")
"""How Pillow's modes begin whose pixels have more than 8 bits a channel."""

_UNIT = 1 / 255


@dataclass(frozen=True)
class Images:
    """A folder of pictures as samples, with how they become inputs.

    Attributes:
        folder: the folder; files in it that hold arrays are taken as they are.
        options: see `ImageOptions`.
    """

    folder: str | Path
    options: ImageOptions = dataclasses.field(default_factory=ImageOptions)


def is_picture(file: Path) -> bool:
    """Return whether a file's name says that it holds a picture."""
    return file.suffix.lower() in SUFFIXES


def preprocess(file: Path, steps: ImagePreprocessing, dtype: str) -> Array:
    """Return a picture as an array without the batch axis.

    Args:
        file: the picture.
        steps: from picture to array.
        dtype: of the array.

    Raises:
        SampleError: the picture can't be read, is too large or too small, or has more than 8 bits a channel.
        OptionError: Pillow isn't installed.
    """
    return to_array(np.asarray(_resized_and_cropped(file, _decoded(file, steps.channels), steps)), steps, dtype)


def to_array(pixels: Array, steps: ImagePreprocessing, dtype: str) -> Array:
    """Return pixels as an array without the batch axis: the steps that come after resizing and cropping.

    Args:
        pixels: uint8, [height, width, 3] RGB or [height, width].
        steps: from picture to array.
        dtype: of the array.
    """
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    ordered = pixels[..., ::-1] if steps.channels == "BGR" else pixels
    mean, std = np.array(steps.mean)[:, None], np.array(steps.std)[:, None]
    table = np.broadcast_to((np.arange(256) * steps.scale - mean) / std, (ordered.shape[2], 256)).astype(dtype)
    planes = [table[channel][ordered[..., channel]] for channel in range(ordered.shape[2])]
    return np.stack(planes, axis=0 if steps.layout == "NCHW" else -1)


def upright_size(file: Path) -> Size:
    """Return a picture's width and height, without decoding it; see `preprocess`."""
    with _reading(file), _opened(file) as picture:
        width, height = picture.size
        return (height, width) if picture.getexif().get(_ORIENTATION, 1) in _SIDEWAYS else (width, height)


def resolve_preprocessing(options: ImageOptions, spec: TensorSpec) -> ImagePreprocessing:
    """Return how pictures become an input: what the options leave open follows from its shape.

    Without `resize` and `crop`, pictures are stretched to the input's size; with `resize` alone, cropped to it.

    Args:
        options: what the user says.
        spec: the input.

    Raises:
        OptionError: the options contradict each other or the input, or it can't be a picture.
    """
    layout, channels = picture_layout(options, spec.name, spec.shape)
    height, width = (spec.shape[-2:]) if layout == "NCHW" else (spec.shape[-3:-1])
    resize, crop = options.resize, as_pair(options.crop)
    if crop is None:
        resize = (width, height) if resize is None else resize
        crop = None if resize == (width, height) else (width, height)
    if crop is not None and crop != (width, height):
        raise OptionError(
            f"--crop {crop[0]}x{crop[1]}: input {spec.name!r} takes pictures of {width}x{height}. Crop to that, or "
            "leave --crop out."
        )
    scale, mean, std = _values(options, np.dtype(spec.dtype))
    order: Any = "L" if channels == 1 else "BGR" if options.bgr else "RGB"
    try:
        return ImagePreprocessing(resize, crop, order, scale, mean, std, layout)
    except ValueError as error:
        raise OptionError(f"Pictures can't become input {spec.name!r}: {error}.") from error


def resized(size: Size, resize: Size | int | None) -> Size:
    """Return the width and height that a picture of a size is resized to; see `ImagePreprocessing.resize`."""
    if resize is None:
        return size
    if not isinstance(resize, int):
        return resize
    width, height = size
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def as_pair(size: Size | int | None) -> Size | None:
    """Return a size of which one number may stand for both."""
    return (size, size) if isinstance(size, int) else size


def picture_layout(options: ImageOptions, name: str, dims: Sequence[int | None]) -> tuple[Any, int]:
    """Return the layout of an input that takes pictures, and its number of channels.

    Args:
        options: may say the layout.
        name: the input's.
        dims: its shape, None for what isn't known.

    Raises:
        OptionError: it can't be a picture, or the layout isn't clear.
    """
    written = "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"
    if len(dims) not in (3, 4):
        raise OptionError(
            f"Pictures can't become input {name!r}: its shape is {written}, not one of batch, channels, height and "
            "width."
        )
    places = {"NCHW": dims[-3], "NHWC": dims[-1]}
    fitting = [layout for layout, channels in places.items() if channels in (1, 3)]
    if options.layout is not None:
        fitting = [options.layout] if places[options.layout] in (1, 3, None) else []
    if not fitting:
        raise OptionError(
            f"Pictures can't become input {name!r} {written}: they have 3 channels, or 1. "
            "Give samples as arrays, or say where the channels are: --layout NCHW or NHWC."
        )
    if len(fitting) > 1:
        raise OptionError(f"Input {name!r} {written} may be NCHW or NHWC: say which with --layout.")
    return fitting[0], places[fitting[0]] or 3


def _values(options: ImageOptions, dtype: np.dtype[Any]) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Return scale, mean and std."""
    if dtype.kind != "f":
        if options.scale is not None or options.mean is not None or options.std is not None:
            raise OptionError(f"The model takes pictures as {dtype}: leave --scale, --mean and --std out.")
        if np.iinfo(dtype).max < 255:
            raise OptionError(f"Pictures can't become an input of {dtype}, which holds less than 0 to 255.")
        return 1.0, (0.0,), (1.0,)
    scale = _UNIT if options.scale is None else options.scale
    mean, std = _numbers(options.mean, 0.0), _numbers(options.std, 1.0)
    if options.scale is None and max(mean) > 1:
        raise OptionError(
            f"--mean {max(mean):g}: means are of values from 0 to 1, as torchvision has them. If these are of values "
            "from 0 to 255, say so: --scale 1."
        )
    return scale, mean, std


def _numbers(given: float | tuple[float, ...] | None, default: float) -> tuple[float, ...]:
    if given is None:
        return (default,)
    return given if isinstance(given, tuple) else (given,)


def _resized_and_cropped(file: Path, picture: Any, steps: ImagePreprocessing) -> Any:
    """Return a picture, resized and cropped."""
    size = resized(picture.size, steps.resize)
    if math.prod(size) > MAX_PIXELS:
        raise SampleError(
            f"Picture {file} is {picture.size[0]}x{picture.size[1]}, resized {size[0]}x{size[1]}: too large."
        )
    if size != picture.size:
        picture = picture.resize(size, pillow().Image.Resampling.BILINEAR)
    if steps.crop is None:
        return picture
    width, height = steps.crop
    if width > size[0] or height > size[1]:
        raise SampleError(
            f"Picture {file} is too small to be cropped to {width}x{height}: it is {size[0]}x{size[1]}"
            f"{'' if steps.resize is None else ' after it is resized'}. Give another --resize."
        )
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def _decoded(file: Path, channels: str) -> Any:
    """Return an upright picture of the channels L or RGB; BGR is for later."""
    with _reading(file), _opened(file) as picture:
        deep = picture.mode.startswith(_DEEP_MODES)
        upright = None if deep else pillow().ImageOps.exif_transpose(picture).convert("L" if channels == "L" else "RGB")
    if deep:
        raise SampleError(
            f"Picture {file} has more than 8 bits a channel ({picture.mode}). Convert it, or give it as an array: .npy."
        )
    return upright


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a picture, of which nothing but the header is read, and check its size."""
    with pillow().Image.open(file, formats=_FORMATS) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise SampleError(f"Picture {file} is {width}x{height}: more than {MAX_PIXELS} pixels.")
        yield picture


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Name the file in what Pillow says of broken pictures."""
    broken = pillow().Image.DecompressionBombError, SyntaxError, ValueError, EOFError, struct.error
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of what it passes over in damaged ones; here, too large is an error.
            warnings.simplefilter("ignore")
            yield
    except pillow().UnidentifiedImageError as error:
        raise SampleError(f"{file} isn't a picture of a known kind ({', '.join(_FORMATS)}), or is damaged.") from error
    except OSError as error:
        raise SampleError(f"Picture {file} can't be read: {error.strerror or error}.") from error
    except broken as error:
        raise SampleError(f"Picture {file} can't be read: {str(error).rstrip('.')}.") from error


def pillow() -> Any:
    """Return Pillow.

    Raises:
        OptionError: it isn't installed.
    """
    try:
        import PIL
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
        import PIL.ImageOps
    except ModuleNotFoundError as error:
        raise OptionError("Pictures need Pillow: pip install 'onnx-int8-pipeline[images]'.") from error
    return PIL


_ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned."""

_SIDEWAYS = (5, 6, 7, 8)
"""Its values for pictures that lie on their side."""
