"""Warns of samples whose values have another range than the model was trained on, judging by its first convolution.

In a trained convolution, the biases (which contain the batch normalization) are about as large as the sums of products:
training has moved both to where the activation's threshold makes a difference. If the standard deviation of the sums is
40 times the biases, or a 50th of them, the values were scaled differently in training. In the trained networks that
this was tried with, the ratio is between 0.3 and 4; with pictures of 0 to 255 in place of -1 to 1, it is between 70 and
200. A network with very small biases, or one that was trained on pixels as they are, can have such a ratio, too. So a
warning of large values needs another sign as well: values that are pixels, or activations of which many are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, constant
from pipeline.ir.program import Program

Array = npt.NDArray[Any]

WIDE, NARROW = 40.0, 0.02
"""Ratios of sums to biases above and below which samples are suspicious."""

PIXELS_ABOVE = 16.0
"""Values that are never negative and exceed this are taken for pixels, 0 to 255."""

CLIPPED = 0.3
"""Share of clipped activations above which samples are suspicious."""

_SIDE = 128
"""Height and width, in pixels, of the middle part of a sample, which alone is examined."""

_POSITIONS = 32
"""How many sums of a row or a column are examined, evenly spread: more say the same."""


def range_warnings(program: Program, feeds: Sequence[Mapping[str, Array]]) -> list[str]:
    """Return what to tell the user about the samples' range, for each input that is an image.

    Args:
        program: the float program.
        feeds: some samples: an array for each input.
    """
    flow = Dataflow.of(program.module)
    found = []
    for var, spec in zip(flow.params, program.inputs, strict=True):
        for binding, moved in _convolutions(flow, var):
            images = np.concatenate([moved(feed[spec.name]) for feed in feeds])
            text = _warning(binding, images)
            if text is not None:
                found.append(f"Input {spec.name!r}: {text}")
                break
    return found


def _convolutions(flow: Dataflow, var: relax.Var) -> list[tuple[Binding, Callable[[Array], Array]]]:
    """Return the convolutions that read an input as it is, with what makes it NHWC."""
    found: list[tuple[Binding, Callable[[Array], Array]]] = []
    for user in flow.users[var]:
        moved = _moved(user)
        if moved is not None:
            found += [(b, moved) for b in flow.users[user.var] if _is_convolution(b, user.var)]
        elif _is_convolution(user, var):
            found.append((user, lambda image: image))
    return found


def _moved(binding: Binding) -> Callable[[Array], Array] | None:
    """Return what moves values as an operator does; None if it isn't one that only moves axes."""
    if binding.operator == "relax.permute_dims" and binding.value.attrs["axes"] is not None:
        axes = tuple(int(axis) for axis in binding.value.attrs["axes"])
        return lambda image: np.transpose(image, axes)
    if binding.operator == "relax.reshape":
        shape = tensor_type(binding.var).shape
        return lambda image: image.reshape(shape)
    return None


def _is_convolution(binding: Binding, image: relax.Var) -> bool:
    return (
        type(operator_of(binding.value)) is ops.Conv2d
        and binding.value.args[0].same_as(image)
        and all(constant(a) is not None for a in binding.value.args[1:3])
    )


def _warning(binding: Binding, images: Array) -> str | None:
    """Return what is odd about images [N,H,W,C] for a convolution."""
    convolution, weight, bias = operator_of(binding.value), *(constant(a) for a in binding.value.args[1:3])
    if not isinstance(convolution, ops.Conv2d) or weight is None or bias is None or not bias.any():
        return None
    if min(images.shape[1:3]) < max(weight.shape[1:3]) or convolution.dilation != (1, 1):
        return None
    sums = _spread_out(convolution).sums(_middle(images), weight)
    deviation = sums.std(axis=(0, 1, 2))
    ratio = float(np.linalg.norm(deviation) / np.linalg.norm(bias.astype("float64")))
    low, high = float(images.min()), float(images.max())
    clipped = 0.0 if convolution.clip_max is None else float((sums + bias >= convolution.clip_max).mean())
    seen = f"values are {low:g} to {high:g}, for which the sums of the first layer, {binding.var.name!r}, are"
    if ratio > WIDE and ((low >= 0 and high > PIXELS_ABOVE) or clipped > CLIPPED):
        return (
            f"{seen} {ratio:.0f} times as large as its biases. If the model was trained on values around 0 to 1 or -1 "
            "to 1, samples must be normalized like those; for pictures: --mean, --std and --scale."
        )
    if 0 < ratio < NARROW:
        return (
            f"{seen} {1 / ratio:.0f} times smaller than its biases. If the model was trained on larger values, 0 to "
            "255 say, samples must be scaled like those; for pictures: --scale 1."
        )
    return None


def _spread_out(convolution: ops.Conv2d) -> ops.Conv2d:
    """Return a convolution that computes `_POSITIONS` sums of a row of `_SIDE` pixels, if that is less than all."""
    height, width = (max(stride, _SIDE // _POSITIONS) for stride in convolution.strides)
    return replace(convolution, strides=(height, width))


def _middle(images: Array) -> Array:
    top, left = (max(0, (length - _SIDE) // 2) for length in images.shape[1:3])
    return images[:, top : top + _SIDE, left : left + _SIDE]
