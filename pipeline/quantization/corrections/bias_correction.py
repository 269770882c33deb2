"""Subtracts from biases the mean error that quantized weights cause.

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.2, with means of real samples; NNCF's fast bias correction and PaddleSlim's `bias_correction` use the same idea. If a
layer's weights W become W', its output is wrong by (W' - W) x. The mean of that error, (W' - W) times the mean of x, is
subtracted from the bias. x at every pixel is approximated by the mean of its channel; padding counts as zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant, with_arguments
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.ir.rewriting import rewrite_bindings
from pipeline.ops.arrays import window_positions
from pipeline.quantization.annotation import Annotation, OperatorDecision
from pipeline.quantization.corrections.correction import Correction
from pipeline.quantization.spec import weight_spec
from pipeline.quantization.statistics import ChannelMeans, Need, Statistic
from pipeline.quantization.table import CalibrationTable
from pipeline.quantization.weights import quantize_weights


class BiasCorrection(Correction):
    """See the module's docstring. Convolutions and dense layers are corrected, transposed convolutions aren't."""

    name = "bias_correction"
    changes = "biases of int8 convolutions and dense layers"

    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return the channels' means of all inputs of int8 layers."""
        inputs = (str(binding.value.args[0].name) for binding, _ in _layers(program, annotation))
        return tuple(dict.fromkeys(Need(name, ChannelMeans) for name in inputs))

    def apply(
        self,
        program: Program,
        annotation: Annotation,
        table: CalibrationTable,
        statistics: Mapping[Need, Statistic],
    ) -> Program:
        """See `Correction`."""
        layers = {binding.var: decision for binding, decision in _layers(program, annotation)}

        def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
            decision = layers.get(binding.var)
            if decision is None:
                return None
            x, weight, _ = binding.value.args
            name = str(x.name)
            seen = statistics[Need(name, ChannelMeans)]
            if not isinstance(seen, ChannelMeans):
                raise TypeError(f"Expected the means of {name}, got {seen}")
            scale = table.tensors[annotation.source(name)].scale
            corrected = _corrected(binding, decision, scale, seen.means)
            return with_arguments(binding.value, [builder.replaced(x), weight, make_constant(corrected)])

        return dataclasses.replace(program, module=rewrite_bindings(program.module, visit))


def _layers(program: Program, annotation: Annotation) -> list[tuple[Binding, OperatorDecision]]:
    """Return the int8 operators whose biases are corrected."""
    decisions = {o.name: o for o in annotation.operators if o.precision == "int8"}
    bindings = Dataflow.of(program.module).bindings
    return [
        (b, decisions[b.var.name])
        for b in bindings
        if b.var.name in decisions and isinstance(operator_of(b.value), ops.Conv2d | ops.Dense)
    ]


def _corrected(binding: Binding, decision: OperatorDecision, input_scale: float, means: Array) -> Array:
    """Return an operator's bias, corrected: [O] float32.

    Args:
        binding: the operator.
        decision: how it is quantized.
        input_scale: of its input.
        means: of its input's channels: [C] float64.
    """
    weight, bias = constant(binding.value.args[1]), constant(binding.value.args[2])
    if weight is None or bias is None:
        raise TypeError(f"{binding.var.name} is int8, but has no constant weights")
    quantized = quantize_weights(weight, bias, input_scale, decision.weights or weight_spec(per_channel=True))
    outputs = (-1, *(1,) * (weight.ndim - 1))
    error = quantized.weight * quantized.scale.reshape(outputs) - weight.astype("float64")
    operator = operator_of(binding.value)
    if isinstance(operator, ops.Conv2d):
        error, groups = _over_pixels(operator, error, tensor_type(binding.value.args[0]).shape), operator.groups
    else:
        groups = 1
    grouped = error.reshape(groups, len(error) // groups, -1)
    shift = np.einsum("goc,gc->go", grouped, means.reshape(groups, -1)).reshape(-1)
    return np.asarray(bias - shift, "float32")


def _over_pixels(operator: ops.Conv2d, weight: Array, image: tuple[int, ...]) -> Array:
    """Return weights [O,KH,KW,C] as [O,C]: sums over the kernel, each step weighted by its share of pixels."""
    top, left, bottom, right = operator.padding
    rows = _share_within(image[1], top, bottom, weight.shape[1], operator.dilation[0], operator.strides[0])
    columns = _share_within(image[2], left, right, weight.shape[2], operator.dilation[1], operator.strides[1])
    return np.asarray(np.einsum("oijc,i,j->oc", weight, rows, columns))


def _share_within(size: int, before: int, after: int, kernel: int, dilation: int, stride: int) -> Array:
    """Return for each step of a kernel the share of its positions that are on the image, not on padding: [kernel]."""
    positions = window_positions(size, before, after, kernel, dilation, stride)
    places = np.arange(positions)[:, None] * stride + np.arange(kernel) * dilation - before
    return np.asarray(((places >= 0) & (places < size)).mean(axis=0))
