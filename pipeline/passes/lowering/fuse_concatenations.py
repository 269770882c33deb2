"""FuseConcatenations: images are enlarged and concatenated by one operator.

Before -> after, for images concatenated along channels:

    `y = concat(a, resize2d(b))` becomes `y = nn.upsample_concat(a, b)`, with the factors by which b is enlarged.
    `y = resize2d(x)` alone becomes `y = nn.upsample_concat(x)`.
    `y = qnn.lookup(resize2d(x), table)` becomes `y = resize2d(qnn.lookup(x, table))` first, as x has fewer pixels.

Only nearest-neighbour resizing by whole factors is fused, which repeats each pixel. For a concatenation along another
axis, the tensors are reshaped so that they are concatenated along the last axis.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import operator_name, with_arguments
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite

Factors = tuple[int, int]

_DTYPES = ("uint8", "int16", "float32")

_REPEATING = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
"""Coordinates and roundings with which pixel i of the result is pixel `i // factor`, if factors are whole."""


def _enlarged_by(resize: relax.Call) -> Factors | None:
    """Return how often a resizing repeats each row and column of an image; None if it computes anything else."""
    attrs, x, size = resize.attrs, tensor_type(resize.args[0]), [int(d) for d in resize.args[1].values]
    how = (str(attrs["coordinate_transformation_mode"]), str(attrs["rounding_method"]))
    if str(attrs["layout"]) != "NHWC" or str(attrs["method"]) != "nearest_neighbor" or how not in _REPEATING:
        return None
    if x.dtype not in _DTYPES or attrs["out_dtype"] not in (None, "", "void", x.dtype):
        return None
    rows, columns = size[0] // x.shape[1], size[1] // x.shape[2]
    return (rows, columns) if size == [x.shape[1] * rows, x.shape[2] * columns] else None


def _factors(match: Match) -> Factors:
    factors = _enlarged_by(match.call("resize"))
    if factors is None:
        raise TypeError("the image isn't resized by whole factors")
    return factors


ENLARGED = call("relax.image.resize2d", anything("x"), name="resize", where=lambda c: _enlarged_by(c) is not None)


def _look_up_before(match: Match) -> relax.Expr:
    resize = match.call("resize")
    found = match.emit(make_call(ops.QLookup(), match["x"], match["table"]), "small")
    return with_arguments(resize, [found, *resize.args[1:]])


def _check_concat(match: Match) -> str | None:
    dtype = match.result_type.dtype
    return None if dtype in _DTYPES else f"its values are {dtype}"


def _concat(match: Match) -> relax.Expr:
    output, joined = match.result_type, match.call("concat")
    parts, axis = list(joined.args[0].fields), int(joined.attrs["axis"]) % len(output.shape)
    if (len(output.shape), axis) == (4, 3):
        factors: list[int] = []
        for i, part in enumerate(parts):
            resize = match.builder.producing_call(part)
            enlarged = _enlarged_by(resize) if operator_name(resize) == "relax.image.resize2d" else None
            if resize is not None and enlarged is not None:
                parts[i] = resize.args[0]
            factors += enlarged or (1, 1)
        return make_call(ops.UpsampleConcat(tuple(factors)), *parts)
    rows = math.prod(output.shape[:axis])
    flat = [match.emit(relax.op.reshape(p, [1, rows, 1, tensor_type(p).size // rows]), "rows") for p in parts]
    result = match.emit(make_call(ops.UpsampleConcat((1, 1) * len(flat)), *flat), "joined")
    return relax.op.reshape(result, list(output.shape))


LOOK_UP_BEFORE_ENLARGING = Rule(
    "look_up_before_enlarging", call(ops.QLookup, ENLARGED, anything("table")), _look_up_before
)
CONCATENATE = Rule("fuse_concatenation", call("relax.concat", name="concat"), _concat, _check_concat)
ENLARGE = Rule("enlarge", ENLARGED, lambda match: make_call(ops.UpsampleConcat(_factors(match)), match["x"]))


def fuse_concatenations(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with concatenations and resizing fused; see the module's docstring."""
    for rule in (LOOK_UP_BEFORE_ENLARGING, CONCATENATE, ENLARGE):
        module = rewrite(module, rule)
    return module
