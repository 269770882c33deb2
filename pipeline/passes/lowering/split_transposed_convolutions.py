"""SplitTransposedConvolutions: a transposed convolution becomes a convolution with more channels, and depth-to-space.

Before -> after: `conv2d_transpose(x, w, b)` becomes `depth_to_space(conv2d(x, w', b'))`, for the float and the integer
operator.

With strides (sh, sw), all pixels (p, q) of the result with the same p % sh and q % sw form a *phase*. All pixels of a
phase depend on the same taps of the kernel: every sh-th row and every sw-th column. So each phase is a convolution of
stride 1 with a kernel of ceil(KH / sh) by ceil(KW / sw). As all phases read the same pixels of x, they are computed as
the channels of one convolution. Depth-to-space then interleaves the phases, and crops the padding. If sh divides KH and
sw divides KW, the new kernel has no additional zeros (Shi et al., "Is the deconvolution layer the same as a
convolutional layer?", arXiv:1609.07009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of, tensor_type
from pipeline.ir.dataflow import constant, make_constant
from pipeline.ir.rewriting import Match, Rule, anything, call, constant_value, rewrite

Array = npt.NDArray[Any]
Pair = tuple[int, int]


@dataclass(frozen=True)
class _Axis:
    """The new convolution along one spatial axis.

    Attributes:
        taps: [stride, window] int: for each phase and position in its window, the index in the old kernel; -1 for none.
        padding: padding (before, after) of the convolution, in pixels.
        crop: pixels (before, after) that are cut off the result of depth-to-space.
    """

    taps: Array
    padding: Pair
    crop: Pair

    @classmethod
    def of(cls, size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> _Axis:
        """Return the new convolution along an axis.

        Args:
            size: pixels of the input.
            out: pixels of the result.
            kernel: pixels of the old kernel.
            stride: stride of the transposed convolution.
            dilation: dilation of the transposed convolution.
            before: pixels that the transposed convolution's padding cuts off before the result.
        """
        window = -(-(dilation * (kernel - 1) + 1) // stride)
        # Block b of `stride` pixels of the uncropped result depends on the pixels b - window + 1 to b of x.
        first, last = min(before // stride, window - 1), max((before + out - 1) // stride, size - 1)
        steps = np.arange(stride)[:, None] + stride * np.arange(window)[::-1]
        taps = np.where((steps % dilation == 0) & (steps // dilation < kernel), steps // dilation, -1)
        crop = (before - first * stride, (last + 1) * stride - before - out)
        return cls(taps, (window - 1 - first, last - size + 1), crop)


def _split(match: Match) -> relax.Expr:
    operator, (x, _, *rest) = operator_of(match.call("transposed")), match.call("transposed").args
    if not isinstance(operator, ops.Conv2dTranspose | ops.QConv2dTranspose):
        raise TypeError(f"Expected a transposed convolution, got {operator}")
    weight, sizes, outs = match.value("weight"), tensor_type(x).shape[1:3], match.result_type.shape[1:3]
    rows, columns = (
        _Axis.of(sizes[i], outs[i], weight.shape[1 + i], operator.strides[i], operator.dilation[i], operator.padding[i])
        for i in range(2)
    )
    constants = [_phases(weight, operator.groups, rows.taps, columns.taps)]
    constants += [_repeated(v, operator.groups, operator.strides) for c in rest if (v := constant(c)) is not None]
    convolution = _convolution(operator, _sides(rows.padding, columns.padding))
    phases = match.emit(make_call(convolution, x, *(make_constant(c) for c in constants)), "phases")
    crop = _sides(rows.crop, columns.crop)
    return make_call(ops.DepthToSpace(operator.strides, operator.groups, crop), phases)


def _sides(rows: Pair, columns: Pair) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right) for (before, after) along both axes."""
    return (rows[0], columns[0], rows[1], columns[1])


def _convolution(
    operator: ops.Conv2dTranspose | ops.QConv2dTranspose, padding: tuple[int, int, int, int]
) -> ops.Conv2d | ops.QConv2d:
    """Return the convolution that computes all phases."""
    if isinstance(operator, ops.Conv2dTranspose):
        clip_min, clip_max = operator.clip_min, operator.clip_max
        return ops.Conv2d(padding=padding, groups=operator.groups, clip_min=clip_min, clip_max=clip_max)
    return ops.QConv2d(
        padding=padding,
        groups=operator.groups,
        input_zero_point=operator.input_zero_point,
        output_dtype=operator.output_dtype,
        output_zero_point=operator.output_zero_point,
        output_min=operator.output_min,
        output_max=operator.output_max,
    )


def _phases(weight: Array, groups: int, rows: Array, columns: Array) -> Array:
    """Return OHWI weights of all phases as output channels: [groups * sh * sw * O/groups, window, window, I].

    Args:
        weight: weights of the transposed convolution: [O, KH, KW, I].
        groups: number of groups.
        rows: `_Axis.taps` of the height.
        columns: `_Axis.taps` of the width.
    """
    out, kernel_h, kernel_w, inputs = weight.shape
    grouped = weight.reshape(groups, out // groups, kernel_h, kernel_w, inputs)
    # [groups, O/groups, sh, window, sw, window, I], zero where a phase has no tap.
    picked = grouped[:, :, rows[:, :, None, None], columns[None, None]]
    picked = np.where((rows >= 0)[:, :, None, None, None] & (columns >= 0)[:, :, None], picked, 0)
    ordered = picked.transpose(0, 2, 4, 1, 3, 5, 6).astype(weight.dtype)
    return ordered.reshape(-1, rows.shape[1], columns.shape[1], inputs)


def _repeated(values: Array, groups: int, strides: Pair) -> Array:
    """Return per-channel constants, repeated for each phase."""
    grouped = np.broadcast_to(values.reshape(groups, 1, -1), (groups, strides[0] * strides[1], values.size // groups))
    return np.ascontiguousarray(grouped).reshape(-1)


RULE = Rule(
    "split_transposed_convolution",
    call([ops.Conv2dTranspose, ops.QConv2dTranspose], anything("x"), constant_value("weight"), name="transposed"),
    _split,
)


def split_transposed_convolutions(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with transposed convolutions replaced; see the module's docstring."""
    return rewrite(module, RULE)
