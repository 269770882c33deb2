"""Turns pictures into inputs: decodes, resizes, crops and normalizes them, as torchvision's transforms do.

A picture is turned upright as its EXIF data says, and becomes RGB, or greyscale for models with one channel. Resizing
is Pillow's bilinear filter, which averages when it makes a picture smaller; the middle of a crop is rounded to even, as
in `CenterCrop`. Values are computed in float64 and rounded once, so that they depend on the pixels alone.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.options import ImageOptions
from pipeline.errors import OptionError, SampleError, missing_extra
from pipeline.ir.preprocessing import ImagePreprocessing, Size
from pipeline.ir.program import TensorSpec
from pipeline.process_state import without_warnings

Array = npt.NDArray[Any]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of files that contain pictures."""

MAX_PIXELS = 2**27
"""Largest number of pixels of a picture, before and after it is resized."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's formats that are plain pictures. With other formats, Pillow may start programs or read other files."""

_DEEP_MODES = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits a channel."""

_UNIT = 1 / 255


@dataclass(frozen=True)
class Images:
    """A folder of pictures as samples, and how they become inputs.

    Attributes:
        folder: the folder. It may contain files with arrays as well, which are used as they are.
        options: how pictures become inputs; see `ImageOptions`.
    """

    folder: str | Path
    options: ImageOptions = dataclasses.field(default_factory=ImageOptions)


def is_picture(file: Path) -> bool:
    """Return whether a file's suffix is that of a picture."""
    return file.suffix.lower() in SUFFIXES


def preprocess(file: Path, steps: ImagePreprocessing, dtype: str) -> Array:
    """Return a picture as an array without the batch axis: [C,H,W] or [H,W,C], as `steps.layout` says.

    Args:
        file: the picture.
        steps: how the picture becomes an array.
        dtype: the array's dtype.

    Raises:
        SampleError: the picture can't be read, is too large or too small, or has more than 8 bits a channel.
        OptionError: Pillow isn't installed.
    """
    return to_array(np.asarray(_resized_and_cropped(file, _decoded(file, steps.channels), steps)), steps, dtype)


def to_array(pixels: Array, steps: ImagePreprocessing, dtype: str) -> Array:
    """Return pixels as an array without the batch axis; resizing and cropping must have been done.

    Args:
        pixels: uint8, [height, width, 3] RGB or [height, width] greyscale.
        steps: how pixels become an array.
        dtype: the array's dtype.
    """
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    ordered = pixels[..., ::-1] if steps.channels == "BGR" else pixels
    mean, std = np.array(steps.mean)[:, None], np.array(steps.std)[:, None]
    table = np.broadcast_to((np.arange(256) * steps.scale - mean) / std, (ordered.shape[2], 256)).astype(dtype)
    planes = [table[channel][ordered[..., channel]] for channel in range(ordered.shape[2])]
    return np.stack(planes, axis=0 if steps.layout == "NCHW" else -1)


def upright_size(file: Path) -> Size:
    """Return the width and height of a picture after it is turned upright. Only the file's header is read."""
    with _reading(file), _opened(file) as picture:
        width, height = picture.size
        return (height, width) if picture.getexif().get(_ORIENTATION, 1) in _SIDEWAYS else (width, height)


def resolve_preprocessing(options: ImageOptions, spec: TensorSpec) -> ImagePreprocessing:
    """Return how pictures become an input; what the options leave open follows from the input's shape.

    Without `resize` and `crop`, pictures are resized to the input's size, whatever their aspect. With `resize` alone,
    they are then cropped to the input's size.

    Args:
        options: the user's options.
        spec: the input.

    Raises:
        OptionError: the options contradict each other or the input, or the input can't be a picture.
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
    """Return (width, height) of a picture after it is resized; see `ImagePreprocessing.resize`."""
    if resize is None:
        return size
    if not isinstance(resize, int):
        return resize
    width, height = size
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def as_pair(size: Size | int | None) -> Size | None:
    """Return a size as (width, height), where a single number stands for both."""
    return (size, size) if isinstance(size, int) else size


def picture_layout(options: ImageOptions, name: str, dims: Sequence[int | None]) -> tuple[Any, int]:
    """Return the layout, "NCHW" or "NHWC", and the number of channels, 1 or 3, of an input that takes pictures.

    Args:
        options: the user's options, which may contain the layout.
        name: the input's name.
        dims: the input's shape; None for a size that isn't known.

    Raises:
        OptionError: the input can't be a picture, or its layout isn't clear.
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
    """Return a picture, turned upright, with the channels L (greyscale) or RGB; BGR is made from RGB later."""
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
    """Open a picture and check its size; only the file's header is read."""
    with pillow().Image.open(file, formats=_FORMATS) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise SampleError(f"Picture {file} is {width}x{height}: more than {MAX_PIXELS} pixels.")
        yield picture


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn Pillow's errors for broken pictures into SampleErrors that name the file."""
    broken = pillow().Image.DecompressionBombError, SyntaxError, ValueError, EOFError, struct.error
    try:
        # Pillow warns of large pictures, for which there is a limit here, and of parts of damaged ones that it skips.
        with without_warnings():
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
        raise missing_extra("Pictures need Pillow", "images") from error
    return PIL


_ORIENTATION = 0x0112
"""The EXIF tag for the orientation of a picture."""

_SIDEWAYS = (5, 6, 7, 8)
"""Orientations of pictures whose width and height are exchanged when they are turned upright."""
