"""SplitTransposedConvolutions: a transposed convolution is a convolution with more channels and fewer pixels.

Before -> after: `conv2d_transpose(x, w, b)` becomes `depth_to_space(conv2d(x, w', b'))`, for the float and the integer
operator.

With strides (sh, sw), pixels (p, q) of the result whose p % sh and q % sw are the same, one *phase*, all see the same
taps of the kernel: every sh-th row and sw-th column of it. So each phase is a convolution of stride 1, and as all
phases read the same pixels of x, they are channels of one convolution, whose kernel is ceil(KH / sh) by ceil(KW / sw).
Depth-to-space then puts the phases where they belong, and cuts off the padding. Where KH divides by sh and KW by sw no
weight of the new kernel is an additional zero (Shi et al., "Is the deconvolution layer the same as a convolutional
layer?", arXiv:1609.07009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, make_call, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant

Array = npt.NDArray[Any]
Pair = tuple[int, int]


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of a transposed convolution: the convolution that replaces it.

    Attributes:
        taps: [stride, window] int: which tap of the kernel a phase has at a place of its window; -1 for none.
        padding: pixels (before, after) that the convolution's input gets.
        crop: pixels (before, after) that are cut off the result.
    """

    taps: Array
    padding: Pair
    crop: Pair

    @classmethod
    def of(cls, size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> _Axis:
        """Return the axis for `size` pixels in and `out` pixels out, of which `before` have been cut off."""
        window = -(-(dilation * (kernel - 1) + 1) // stride)
        # Block b of `stride` pixels of the uncut result sees the pixels b - window + 1 to b of x.
        first, last = min(before // stride, window - 1), max((before + out - 1) // stride, size - 1)
        steps = np.arange(stride)[:, None] + stride * np.arange(window)[::-1]
        taps = np.where((steps % dilation == 0) & (steps // dilation < kernel), steps // dilation, -1)
        crop = (before - first * stride, (last + 1) * stride - before - out)
        return cls(taps, (window - 1 - first, last - size + 1), crop)


def split_transposed_convolutions(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module without transposed convolutions; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        attrs = describe(binding.value)
        if isinstance(attrs, ops.Conv2dTranspose | ops.QConv2dTranspose):
            builder.values[binding.var] = _split(binding, attrs, builder)
        else:
            builder.copy(binding)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _split(binding: Binding, attrs: ops.Conv2dTranspose | ops.QConv2dTranspose, builder: DataflowBuilder) -> relax.Var:
    x, weight, *rest = binding.value.args
    values = constant(weight)
    if values is None:
        raise TypeError(f"The weights of {binding.var.name} aren't constant")
    sizes, outs = tensor_type(x).shape[1:3], tensor_type(binding.var).shape[1:3]
    rows, columns = (
        _Axis.of(sizes[i], outs[i], values.shape[1 + i], attrs.strides[i], attrs.dilation[i], attrs.padding[i])
        for i in range(2)
    )
    padding = (rows.padding[0], columns.padding[0], rows.padding[1], columns.padding[1])
    convolution: ops.Conv2d | ops.QConv2d
    if isinstance(attrs, ops.Conv2dTranspose):
        convolution = ops.Conv2d(padding=padding, groups=attrs.groups, clip_min=attrs.clip_min, clip_max=attrs.clip_max)
    else:
        convolution = ops.QConv2d(
            padding=padding,
            groups=attrs.groups,
            input_zero_point=attrs.input_zero_point,
            output_dtype=attrs.output_dtype,
            output_zero_point=attrs.output_zero_point,
            output_min=attrs.output_min,
            output_max=attrs.output_max,
        )
    constants = [_phases(values, attrs.groups, rows.taps, columns.taps)]
    constants += [_repeated(value, attrs.groups, attrs.strides) for c in rest if (value := constant(c)) is not None]
    call = make_call(convolution, builder.replaced(x), *(make_constant(c) for c in constants))
    phases = builder.emit(call, f"{binding.var.name}.phases")
    crop = (rows.crop[0], columns.crop[0], rows.crop[1], columns.crop[1])
    return builder.emit(make_call(ops.DepthToSpace(attrs.strides, attrs.groups, crop), phases), binding.var.name)


def _phases(weight: Array, groups: int, rows: Array, columns: Array) -> Array:
    """Return OHWI weights with their phases as channels: [groups * sh * sw * O/groups, window, window, I]."""
    out, kernel_h, kernel_w, inputs = weight.shape
    grouped = weight.reshape(groups, out // groups, kernel_h, kernel_w, inputs)
    # [groups, O/groups, sh, window, sw, window, I], zero where a phase has no tap.
    picked = grouped[:, :, rows[:, :, None, None], columns[None, None]]
    picked = np.where((rows >= 0)[:, :, None, None, None] & (columns >= 0)[:, :, None], picked, 0)
    ordered = picked.transpose(0, 2, 4, 1, 3, 5, 6).astype(weight.dtype)
    return ordered.reshape(-1, rows.shape[1], columns.shape[1], inputs)


def _repeated(values: Array, groups: int, strides: Pair) -> Array:
    """Return per-channel constants for each phase."""
    grouped = np.broadcast_to(values.reshape(groups, 1, -1), (groups, strides[0] * strides[1], values.size // groups))
    return np.ascontiguousarray(grouped).reshape(-1)
