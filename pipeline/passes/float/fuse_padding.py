"""FusePadding: zeros around an image become the padding of the convolutions that read it.

Before -> after: `conv2d(pad(x, 0))` becomes `conv2d(x)` with so much more padding. Exporters write it so where the
padding isn't the same on all sides (PyTorch's `ZeroPad2d`, TensorFlow's "same").

Precondition: NHWC (after PropagateLayout).
"""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, make_call
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder


def fuse_padding(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with padding by zeros folded into convolutions; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        call = _padded(flow, binding)
        if call is None:
            builder.copy(binding)
        else:
            builder.values[binding.var] = builder.emit(builder.replaced(call), binding.var.name)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _padded(flow: Dataflow, binding: Binding) -> relax.Call | None:
    """Return a convolution of a padded image as one of the image; None for anything else."""
    attrs = describe(binding.value)
    if not isinstance(attrs, ops.Conv2d):
        return None
    x, *weights = binding.value.args
    producer = flow.producers.get(x)
    pad = None if producer is None else describe(producer.value)
    if producer is None or not isinstance(pad, ops.Pad) or pad.value != 0:
        return None
    top, left, bottom, right = (a + b for a, b in zip(attrs.padding, pad.padding, strict=True))
    wider = dataclasses.replace(attrs, padding=(top, left, bottom, right))
    return make_call(wider, producer.value.args[0], *weights)
