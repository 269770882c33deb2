"""UnfoldImageInputs: for a network's first convolution, successive rows of the image are laid side by side as channels.

As images have few channels, dot-product instructions are poorly used: a kernel row of 3 pixels by 3 channels has 9
values, but an instruction takes 4 or 64. If `rows` successive rows of the image become channels, as many kernel rows
become one contiguous segment of values:

    3x3 stride 2, C channels: z[n, h, w, C], 3 segments of 3 * C  ->  y[n, h / 2, w, 3 * C], 1 segment of 9 * C
    7x7 stride 2, C channels: z[n, h, w, C], 7 segments of 7 * C  ->  y[n, h / 2, w, 3 * C], 3 segments of 21 * C

Before -> after: `qnn.conv2d(qnn.quantize_image(x), w)` becomes `qnn.conv2d(qnn.quantize_image(x, rows, row_step), v)`
with a stride of 1 along the height. If a kernel row is in two lines of the unfolded image, as rows are in the second
example above, its weights in the second line are zero.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import make_constant
from pipeline.ir.rewriting import Match, Rule, call, constant_value, rewrite
from pipeline.ir.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Operation
from pipeline.kernels.ops.quantize_image import unfolding_cycles

Array = npt.NDArray[np.int8]


def _with_extra_column(
    quantization: ops.QuantizeImage, padded: TensorType, weight: Array, operator: ops.QConv2d
) -> ops.QuantizeImage:
    """Return the operator with one more column of halo at the right, if the convolution's result stays the same.

    Matrix registers load more than a segment of odd length, and must not read beyond the last one.

    Args:
        quantization: the operator that unfolds the image.
        padded: type of its result.
        weight: weights of the convolution, OHWI.
        operator: the convolution.
    """
    read_to_the_end = (padded.shape[2] - weight.shape[2]) % operator.strides[1] == 0
    if not read_to_the_end or operator.strides[1] == 1:
        return quantization
    top, left, bottom, right = quantization.halo
    return dataclasses.replace(quantization, halo=(top, left, bottom, right + 1))


@dataclasses.dataclass(frozen=True)
class _Unfolding:
    """One way to unfold an image, with the convolution that computes the same on it.

    Attributes:
        quantization: the operator that unfolds the image.
        convolution: the convolution of the unfolded image.
        weight: weights of the convolution, OHWI.
    """

    quantization: ops.QuantizeImage
    convolution: ops.QConv2d
    weight: Array

    def cycles(self, image: relax.Call, convolution: relax.Call, machine: Machine) -> float:
        """Return an estimate of the cycles that both operators take, except for those that are the same in all ways."""
        unfolded = self.quantization.infer(tensor_type(image.args[0]))
        inputs = (unfolded, TensorType(self.weight.shape, "int8"), *(tensor_type(a) for a in convolution.args[2:]))
        operation = Operation(self.convolution, inputs, self.convolution.infer(*inputs), {1: self.weight})
        return registry.product_cycles(operation, machine) + unfolding_cycles(self.quantization, unfolded, machine.isa)


def _unfoldings(weight: Array, quantization: ops.QuantizeImage, operator: ops.QConv2d) -> list[_Unfolding]:
    """Return all ways to unfold the image, the first of which is not to unfold it."""
    ways = [_Unfolding(quantization, operator, weight)]
    out, kernel_h, kernel_w, channels = weight.shape
    step, column_step = operator.strides
    convolution = dataclasses.replace(operator, strides=(1, column_step), zero_rows=(0, 0))
    for rows in range(max(2, step), kernel_h + 1):
        if (kernel_h - rows) % step:
            continue
        lines = []
        for first in range(0, kernel_h - rows + 1, step):
            held = weight[:, first : first + rows].copy()
            if first > 0:
                held[:, : rows - step] = 0
            lines.append(held.transpose(0, 2, 1, 3).reshape(out, 1, kernel_w, rows * channels))
        unfolded = dataclasses.replace(quantization, rows=rows, row_step=step)
        ways.append(_Unfolding(unfolded, convolution, np.concatenate(lines, axis=1)))
    return ways


def _check(match: Match) -> str | None:
    convolution = match.operator("convolution", ops.QConv2d)
    return "it has groups or dilation" if convolution.groups > 1 or convolution.dilation != (1, 1) else None


def _rule(machine: Machine) -> Rule:
    def unfold(match: Match) -> relax.Expr:
        image, convolution = match.call("image"), match.call("convolution")
        operator, weight = match.operator("convolution", ops.QConv2d), match.value("weight")
        padded = _with_extra_column(
            match.operator("image", ops.QuantizeImage), tensor_type(match["image"]), weight, operator
        )
        ways = _unfoldings(weight, padded, operator)
        chosen = min(ways, key=lambda way: way.cycles(image, convolution, machine))
        unfolded = match.builder.emit(make_call(chosen.quantization, image.args[0]), match["image"].name)
        return make_call(chosen.convolution, unfolded, make_constant(chosen.weight), *convolution.args[2:])

    image = call(ops.QuantizeImage, name="image", read_once=True)
    convolutions = (ops.QConv2d, ops.QConv2dAdd, ops.QConv2dHardSwish, ops.QConv2dLookup)
    pattern = call(convolutions, image, constant_value("weight"), name="convolution")
    return Rule("unfold_image_input", pattern, unfold, _check)


def unfold_image_inputs(module: tvm.IRModule, machine: Machine) -> tvm.IRModule:
    """Return the module with images unfolded where that is faster on the machine; see the module's docstring."""
    return rewrite(module, _rule(machine))
