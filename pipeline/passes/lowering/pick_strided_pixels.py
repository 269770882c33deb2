"""PickStridedPixels: 1x1 convolutions with strides read only what they need, in one line.

Before -> after: `qnn.conv2d(x, w, strides=s)` with a 1x1 kernel becomes `qnn.conv2d(p, w)` of
`p = nn.max_pool2d(x, 1x1, strides=s)`: windows of one pixel pick it. All picked pixels are neighbours then, and fill
registers that take several at once where a short line of the output would leave half of them empty.
"""

from __future__ import annotations

import dataclasses

import tvm

from pipeline import ops
from pipeline.ir.bridge import describe, make_call, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder
from pipeline.kernels.isa import InstructionSet


def pick_strided_pixels(module: tvm.IRModule, isa: InstructionSet) -> tvm.IRModule:
    """Return the module with strides taken out of 1x1 convolutions of few pixels; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        attrs = describe(binding.value)
        if not isinstance(attrs, ops.QConv2d) or not _leaves_registers_empty(binding, attrs, isa):
            builder.copy(binding)
            continue
        x, *constants = (builder.replaced(a) for a in binding.value.args)
        picked = builder.emit(make_call(ops.MaxPool2d(strides=attrs.strides), x), f"{binding.var.name}.picked")
        dense = make_call(dataclasses.replace(attrs, strides=(1, 1)), picked, *constants)
        builder.values[binding.var] = builder.emit(dense, binding.var.name)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _leaves_registers_empty(binding: Binding, attrs: ops.QConv2d, isa: InstructionSet) -> bool:
    kernel = tensor_type(binding.value.args[1]).shape[1:3]
    strided_1x1 = kernel == (1, 1) and attrs.strides != (1, 1) and attrs.groups == 1 and not any(attrs.padding)
    return strided_1x1 and 2 * tensor_type(binding.var).shape[2] <= isa.pixels_together
