"""Checks that operands fit each other, where ONNX's own shape inference looks at one of them only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]

Rule = Callable[[Sequence[Shape | None], Attributes], str | None]
"""Takes the shapes of a node's inputs, None for those that aren't given, and returns what is wrong, or None."""


def misfit(op_type: str, shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    """Return in which way a node's inputs don't fit each other, as the end of a sentence; None if they do.

    Args:
        op_type: one of ONNX's own operators, in the form of operator set 13 or later.
        shapes: of its inputs; None for those that aren't given.
        attributes: its attributes' values by name.
    """
    rule = _RULES.get(op_type)
    return None if rule is None else rule((*shapes, *(None,) * 5), attributes)


def _conv(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    x, weight, bias = shapes[:3]
    groups = attributes.get("group", 1)
    if x is None or weight is None or len(x) != len(weight) or len(x) < 3:
        return "the input and the weight must have the same number of dimensions, three at least"
    if groups < 1 or weight[1] * groups != x[1] or weight[0] % groups:
        return f"{x[1]} channels in {groups} groups don't fit a weight of {weight[0]} outputs and {weight[1]} inputs"
    return _per_channel("bias", bias, weight[0])


def _conv_transpose(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    x, weight, bias = shapes[:3]
    groups = attributes.get("group", 1)
    if x is None or weight is None or len(x) != len(weight) or len(x) < 3:
        return "the input and the weight must have the same number of dimensions, three at least"
    if groups < 1 or weight[0] != x[1] or weight[0] % groups:
        return f"{x[1]} channels in {groups} groups don't fit a weight of {weight[0]} inputs"
    return _per_channel("bias", bias, weight[1] * groups)


def _gemm(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    a, b, c = shapes[:3]
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return "both factors must be matrices"
    rows, inner = reversed(a) if attributes.get("transA", 0) else a
    height, columns = reversed(b) if attributes.get("transB", 0) else b
    if inner != height:
        return f"the factors have {inner} columns and {height} rows"
    return None if c is None or _broadcasts(c, (rows, columns)) else f"C can't be broadcast to {[rows, columns]}"


def _normalization(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    del attributes
    x, *parameters = shapes
    # Without an axis for them, there is one channel.
    channels = 1 if x is None or len(x) < 2 else x[1]
    problems = (_per_channel(f"input {i}", p, channels) for i, p in enumerate(parameters, 1))
    return next((p for p in problems if p is not None), None)


def _layer_norm(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    del attributes
    x, *parameters = shapes
    fits = x is not None and all(p is None or _broadcasts(p, x) for p in parameters)
    return None if fits else "the scale and the bias must be such that they can be broadcast to the input"


def _prelu(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    del attributes
    x, slope = shapes[:2]
    fits = x is not None and slope is not None and _broadcasts(slope, x)
    return None if fits else "the slope can't be broadcast to the input"


def _per_channel(what: str, shape: Shape | None, channels: int) -> str | None:
    return None if shape is None or shape == (channels,) else f"{what} must have the shape {[channels]}"


def _broadcasts(shape: Shape, to: Shape) -> bool:
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(a in (1, b) for a, b in pairs)


_RULES: Mapping[str, Rule] = {
    "BatchNormalization": _normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "InstanceNormalization": _normalization,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
}
