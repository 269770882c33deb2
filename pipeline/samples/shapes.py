"""Finds the shapes of inputs that a model leaves open from its samples."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.config.options import ImageOptions
from pipeline.errors import SampleError
from pipeline.ir.program import TensorSpec
from pipeline.samples.fitting import arrays_of, capitalized
from pipeline.samples.images import Images, as_pair, is_picture, picture_layout, resized, upright_size
from pipeline.samples.reading import Samples, folder_of, named_samples, sample_files

Dims = tuple["int | None", ...]
Shape = tuple[int, ...]

_ANY_IMAGE: Dims = (None, None, None, None)

_logger = logging.getLogger(__name__)


def open_shapes(
    declared: Mapping[str, Dims | None], given: Mapping[str, Sequence[int]], samples: Samples | None
) -> dict[str, Sequence[int]]:
    """Return shapes for the inputs that a model leaves open: the given shapes, and for other inputs the first sample's.

    If the sample has no batch axis, the batch is 1. Pictures count with the size to which they are resized or cropped;
    if they aren't, all must have the same size.

    Args:
        declared: the model's shapes by input; None for a shape or a size that it leaves open.
        given: shapes that the user gives, by input.
        samples: the samples; not needed for a model without open shapes. An iterator can be read only once and is left
            alone, so that no shapes are taken from it.

    Raises:
        SampleError: the first sample doesn't fit the model, there is none, or pictures have different sizes.
        OptionError: the options for pictures don't fit the input.
    """
    found = dict(given)
    left = {name: dims for name, dims in declared.items() if name not in given and (dims is None or None in dims)}
    if not left or samples is None or isinstance(samples, Iterator):
        return found
    if isinstance(samples, str | Path | Images) and len(declared) == 1:
        files = sample_files(folder_of(samples))
        ((name, dims),) = left.items()
        pictures = [file for file in files if is_picture(file)]
        if pictures:
            options = samples.options if isinstance(samples, Images) else ImageOptions()
            return found | {name: _picture_shape(pictures, options, name, _ANY_IMAGE if dims is None else dims)}
    # The shapes and dtypes of these aren't used.
    specs = [TensorSpec(name, (), "float32") for name in declared]
    title, sample = next(named_samples(samples, specs), (None, None))
    if title is None:
        raise SampleError("No samples: the shapes that the model leaves open can't be taken from them.")
    arrays = arrays_of(sample, specs, title)
    for name, dims in left.items():
        found[name] = _array_shape(arrays[name].shape, dims, name, title)
    return found


def _array_shape(shape: Shape, dims: Dims | None, name: str, title: str) -> Shape:
    """Return the shape of an input for an array of a sample."""
    if dims is None:
        return shape
    full = (dims[0] or 1, *shape) if len(shape) == len(dims) - 1 else shape
    if len(full) != len(dims) or any(d not in (None, s) for d, s in zip(dims[1:], full[1:], strict=True)):
        raise SampleError(
            f"{capitalized(title)}: input {name!r} has the shape {shape}; the model takes {_written(dims)}."
        )
    full = (dims[0] or full[0], *full[1:])
    if dims[0] is None and full[0] > 1:
        one = ",".join(map(str, (1, *full[1:])))
        _logger.warning(
            f"The model leaves the batch of input {name!r} open; it becomes {full[0]}, as {title} has it. "
            f"For a library that takes one sample at a time: --shape {name}={one}."
        )
    return full


def _picture_shape(files: Sequence[Path], options: ImageOptions, name: str, dims: Dims) -> Shape:
    """Return the shape of an input that pictures become."""
    layout, channels = picture_layout(options, name, dims)
    declared = dims[-2:] if layout == "NCHW" else dims[-3:-1]
    height, width = (declared[0], declared[1]) if None not in declared else _common_size(files, options)[::-1]
    image = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    shape = image if len(dims) == 3 else (dims[0] or 1, *image)
    if any(d not in (None, s) for d, s in zip(dims, shape, strict=True)):
        raise SampleError(
            f"Pictures of {width}x{height} don't fit input {name!r}, which takes {_written(dims)}. Give a size: "
            "--resize WIDTHxHEIGHT."
        )
    return shape


def _common_size(files: Sequence[Path], options: ImageOptions) -> tuple[int, int]:
    """Return the size that all pictures have after preprocessing."""
    crop = as_pair(options.crop)
    if crop is not None:
        return crop
    if options.resize is not None and not isinstance(options.resize, int):
        return options.resize
    first = resized(upright_size(files[0]), options.resize)
    for file in files[1:]:
        size = resized(upright_size(file), options.resize)
        if size != first:
            raise SampleError(
                f"The model leaves the size of pictures open, and {files[0]} has {first[0]}x{first[1]}, {file} "
                f"{size[0]}x{size[1]}{'' if options.resize is None else ' after they are resized'}. Give one size: "
                "--resize WIDTHxHEIGHT, or --crop."
            )
    return first


def _written(dims: Dims) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"
