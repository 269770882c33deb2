"""The layers that corrections correct: int8 convolutions and dense layers, with their weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant, with_arguments
from pipeline.ir.operator import Array
from pipeline.ir.program import Program
from pipeline.ir.rewriting import rewrite_bindings
from pipeline.ops.arrays import window_positions
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.spec import QuantizationSpec, weight_spec
from pipeline.quantization.weights import QuantizedWeights, quantize_weights


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer that becomes int8.

    Attributes:
        name: of the tensor that it computes.
        input: name of the tensor that it reads.
        operator: what it computes.
        weight: [O,...] float32.
        bias: [O] float32.
        spec: how its weights are quantized.
        image: shape of its input.
    """

    name: str
    input: str
    operator: ops.Conv2d | ops.Dense
    weight: Array
    bias: Array
    spec: QuantizationSpec
    image: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Of the convolution's channels; 1 for a dense layer."""
        return self.operator.groups if isinstance(self.operator, ops.Conv2d) else 1

    def mean_response(self, weight: Array, means: Array) -> Array:
        """Return the mean of the sums of products with an input of these means: [O] float64.

        Each channel's mean stands for it at all pixels; zeros that a convolution pads count as zeros.

        Args:
            weight: [O,...] float64, of the layer's shape.
            means: of the input's channels: [C] float64.
        """
        rows = self._over_pixels(weight) if isinstance(self.operator, ops.Conv2d) else weight
        grouped = rows.reshape(self.groups, len(rows) // self.groups, -1)
        return np.asarray(np.einsum("goc,gc->go", grouped, means.reshape(self.groups, -1)).reshape(-1))

    def _over_pixels(self, weight: Array) -> Array:
        """Return [O,C] for weights [O,KH,KW,C]: what a pixel of the result gets of a constant image on the average."""
        convolution = self.operator
        if not isinstance(convolution, ops.Conv2d):
            raise TypeError("only convolutions have windows")
        top, left, bottom, right = convolution.padding
        (dilation_h, dilation_w), (stride_h, stride_w) = convolution.dilation, convolution.strides
        rows = _share_within(self.image[1], top, bottom, weight.shape[1], dilation_h, stride_h)
        columns = _share_within(self.image[2], left, right, weight.shape[2], dilation_w, stride_w)
        return np.asarray(np.einsum("oijc,i,j->oc", weight, rows, columns))


def int8_layers(program: Program, annotation: Annotation) -> dict[str, Layer]:
    """Return a float program's layers that become int8, by name, in order, without transposed convolutions."""
    decisions = {o.name: o for o in annotation.operators if o.precision == "int8"}
    found = {}
    for binding in Dataflow.of(program.module).bindings:
        operator, decision = operator_of(binding.value), decisions.get(binding.var.name)
        if decision is not None and isinstance(operator, ops.Conv2d | ops.Dense):
            x, weight, bias = binding.value.args[0], *(constant(a) for a in binding.value.args[1:3])
            if weight is None or bias is None:
                raise TypeError(f"{binding.var.name} is int8, but has no constant weights")
            spec = decision.weights or weight_spec(per_channel=True)
            name, shape = str(binding.var.name), tensor_type(x).shape
            found[name] = Layer(name, str(x.name), operator, weight, bias, spec, shape)
    return found


def chosen_parameters(
    layer: Layer, nearest: QuantizedWeights, chosen: Array, bias: Array, better: Array, input_scale: Array
) -> tuple[Array, Array]:
    """Return a layer's weights and bias, float32, changed in those channels in which that is better.

    Args:
        layer: the layer as it is.
        nearest: its weights as they are quantized.
        chosen: whole numbers that are to be the quantized weights: of the weights' shape.
        bias: that goes with them: [O].
        better: whether they are: [O] bool.
        input_scale: of the layer's input, for each output channel: [O].
    """
    step = nearest.scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    by_weight = better.reshape(step.shape)
    weight = np.where(by_weight, chosen * step, layer.weight).astype("float32")
    new_bias = np.where(better, bias, layer.bias).astype("float32")
    # What is quantized another time, from the largest weights that are left, has to come out the same.
    again = quantize_weights(weight, new_bias, input_scale, layer.spec)
    same = (again.weight == chosen).reshape(len(bias), -1).all(axis=1) & better
    weight = np.where(same.reshape(step.shape), weight, layer.weight)
    return np.asarray(weight), np.asarray(np.where(same, new_bias, layer.bias))


def with_biases(program: Program, biases: Mapping[str, Array]) -> Program:
    """Return a program in which the named layers have other biases, [O] each."""
    return with_parameters(program, {name: (None, bias) for name, bias in biases.items()})


def with_parameters(program: Program, parameters: Mapping[str, tuple[Array | None, Array]]) -> Program:
    """Return a program in which the named layers have other weights, None leaving them as they are, and biases."""

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        changed = parameters.get(str(binding.var.name))
        if changed is None:
            return None
        (x, before, _), (weight, bias) = binding.value.args, changed
        weights = before if weight is None else make_constant(weight.astype("float32"))
        return with_arguments(binding.value, [builder.replaced(x), weights, make_constant(bias.astype("float32"))])

    return dataclasses.replace(program, module=rewrite_bindings(program.module, visit))


def _share_within(size: int, before: int, after: int, kernel: int, dilation: int, stride: int) -> Array:
    """Return at which share of its positions each step of a kernel is on the image, not on padding: [kernel]."""
    positions = window_positions(size, before, after, kernel, dilation, stride)
    places = np.arange(positions)[:, None] * stride + np.arange(kernel) * dilation - before
    return np.asarray(((places >= 0) & (places < size)).mean(axis=0))
