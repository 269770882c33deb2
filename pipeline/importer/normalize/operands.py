"""Checks that the shapes of a node's operands fit each other, for operators where ONNX's shape inference doesn't."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.ir.types import MAX_TENSOR_BYTES

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]

Rule = Callable[[Sequence[Shape | None], Attributes], str | None]
"""Given the shapes of a node's inputs (None for missing ones) and its attributes, returns what is wrong, or None."""


def operand_mismatch(op_type: str, shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    """Return why a node's operands don't fit each other, as a clause for an error message; None if they do.

    Args:
        op_type: one of ONNX's own operators, as of operator set 13 or later.
        shapes: shapes of the node's inputs; None for optional ones that are missing.
        attributes: values of the node's attributes by name.
    """
    rule = _RULES.get(op_type)
    return None if rule is None else rule((*shapes, *(None,) * 8), attributes)


def _conv(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    x, weight, bias = shapes[:3]
    groups = attributes.get("group", 1)
    if x is None or weight is None or len(x) != len(weight) or len(x) < 3:
        return "the input and the weight must have the same number of dimensions, at least three"
    if groups < 1 or weight[1] * groups != x[1] or weight[0] % groups:
        return f"{x[1]} channels in {groups} groups don't fit a weight of {weight[0]} outputs and {weight[1]} inputs"
    return (
        _kernel_shape(weight, attributes)
        or _padded_size(x, weight, attributes)
        or _per_channel("bias", bias, weight[0])
    )


def _kernel_shape(weight: Shape, attributes: Attributes) -> str | None:
    kernel = attributes.get("kernel_shape") or weight[2:]
    return (
        None
        if tuple(kernel) == weight[2:]
        else f"kernel_shape is {list(kernel)}, but the weight has {list(weight[2:])}"
    )


def _padded_size(x: Shape, weight: Shape, attributes: Attributes) -> str | None:
    """Check the size of the padded input, which is allocated even where large strides make the result small."""
    count = len(x) - 2
    dilations = attributes.get("dilations") or [1] * count
    pads = attributes.get("pads") or [0] * (2 * count)
    added = [pads[k] + pads[k + count] for k in range(count)] if len(pads) == 2 * count else []
    if attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        added = [(k - 1) * d for k, d in zip(weight[2:], dilations, strict=False)]
    size = 4 * math.prod(x[:2]) * math.prod(s + a for s, a in zip(x[2:], added, strict=False))
    return f"its padded input takes {size} bytes; the limit is {MAX_TENSOR_BYTES}" if size > MAX_TENSOR_BYTES else None


def _conv_transpose(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    x, weight, bias = shapes[:3]
    groups = attributes.get("group", 1)
    if x is None or weight is None or len(x) != len(weight) or len(x) < 3:
        return "the input and the weight must have the same number of dimensions, at least three"
    if groups < 1 or weight[0] != x[1] or weight[0] % groups:
        return f"{x[1]} channels in {groups} groups don't fit a weight of {weight[0]} inputs"
    return _kernel_shape(weight, attributes) or _per_channel("bias", bias, weight[1] * groups)


def _clip(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    del attributes
    single = all(shape is None or math.prod(shape) == 1 for shape in shapes[1:3])
    return None if single else "its limits must be single numbers"


def _pool(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    del shapes
    kernel, pads = attributes.get("kernel_shape", ()), attributes.get("pads", ())
    dilations = attributes.get("dilations") or [1] * len(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=False)] * 2
    wide = any(pad >= window for pad, window in zip(pads, reach, strict=False))
    return f"pads of {list(pads)} are as wide as a window, so that some windows lie in the padding" if wide else None


def _group_normalization(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    x, groups = shapes[0], attributes.get("num_groups", 1)
    fits = x is None or (len(x) > 1 and groups > 0 and x[1] % groups == 0)
    return None if fits else f"its channels can't be divided into {groups} groups"


def _recurrent(gates: int, activations: int) -> Rule:
    """Return the rule of a recurrent layer.

    Args:
        gates: number of gates; the weight has as many times `hidden_size` rows.
        activations: number of activations for each direction.
    """

    def rule(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
        x, w, r, b, _, h, c, p = shapes[:8]
        direction = attributes.get("direction", b"forward").decode()
        if direction not in ("forward", "reverse", "bidirectional"):
            return f"there is no direction {direction!r}"
        count = 2 if direction == "bidirectional" else 1
        names = attributes.get("activations") or [""] * (count * activations)
        if len(names) != count * activations:
            return f"it has {len(names)} activations; expected {count * activations}"
        if x is None or r is None or len(x) != 3 or len(r) != 3:
            return "the input and the weights must have three dimensions"
        hidden, rows = r[2], gates * r[2]
        by_direction = attributes.get("layout", 0)
        batch = x[0] if by_direction else x[1]
        state = (batch, count, hidden) if by_direction else (count, batch, hidden)
        expected: dict[str, tuple[Shape | None, Shape]] = {
            "weight": (w, (count, rows, x[2])),
            "recurrent weight": (r, (count, rows, hidden)),
        }
        expected |= {"bias": (b, (count, 2 * rows)), "initial state": (h, state), "initial cell": (c, state)}
        expected |= {"peephole weight": (p, (count, 3 * hidden))}
        if attributes.get("hidden_size", hidden) != hidden:
            return f"hidden_size is {attributes['hidden_size']}, but the recurrent weight has {hidden} columns"
        wrong = ((k, shape) for k, (given, shape) in expected.items() if given is not None and given != shape)
        return next((f"its {what} must have the shape {list(shape)}" for what, shape in wrong), None)

    return rule


def _gemm(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    a, b, c = shapes[:3]
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return "A and B must be matrices"
    rows, inner = reversed(a) if attributes.get("transA", 0) else a
    height, columns = reversed(b) if attributes.get("transB", 0) else b
    if inner != height:
        return f"A has {inner} columns, but B has {height} rows"
    return None if c is None or _broadcasts(c, (rows, columns)) else f"C can't be broadcast to {[rows, columns]}"


def _normalization(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    del attributes
    x, *parameters = shapes
    # An input without a channel axis has one channel.
    channels = 1 if x is None or len(x) < 2 else x[1]
    problems = (_per_channel(f"input {i}", p, channels) for i, p in enumerate(parameters, 1))
    return next((p for p in problems if p is not None), None)


def _layer_norm(shapes: Sequence[Shape | None], attributes: Attributes) -> str | None:
    del attributes
    x, *parameters = shapes
    fits = x is not None and all(p is None or _broadcasts(p, x) for p in parameters)
    return None if fits else "the scale or the bias can't be broadcast to the input"


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
    "AveragePool": _pool,
    "BatchNormalization": _normalization,
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GRU": _recurrent(3, 2),
    "Gemm": _gemm,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _normalization,
    "LSTM": _recurrent(4, 3),
    "LayerNormalization": _layer_norm,
    "LpPool": _pool,
    "MaxPool": _pool,
    "PRelu": _prelu,
    "RNN": _recurrent(1, 1),
}
