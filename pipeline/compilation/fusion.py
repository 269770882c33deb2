"""FuseResidualAdds and WriteFrames: what follows a convolution becomes part of it, and its result isn't read again."""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from pipeline.dialect import attributes as op
from pipeline.dialect.dataflow import Binding, Dataflow, DataflowBuilder
from pipeline.dialect.operators import describe, make_call, tensor_type


def fuse_residual_adds(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with sums fused into the convolutions that only they read.

    Before -> after: `y = qnn.add(qnn.conv2d(x, ...), r)` becomes `y = qnn.conv2d_add(x, ..., r)`.
    """
    flow = Dataflow.of(module)
    fusions = {b.var: f for b in flow.bindings if (f := _find_convolution(flow, b)) is not None}
    convolutions = {convolution.var for convolution, _, _ in fusions.values()}
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        if binding.var in fusions:
            convolution, residual, attrs = fusions[binding.var]
            arguments = [builder.replaced(a) for a in (*convolution.value.args, residual)]
            builder.values[binding.var] = builder.emit(make_call(attrs, *arguments), binding.var.name)
        elif binding.var not in convolutions:
            builder.copy(binding)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _find_convolution(flow: Dataflow, binding: Binding) -> tuple[Binding, relax.Expr, op.QConv2dAdd] | None:
    """Return the convolution that a sum can be fused into, what is added to it, and the fused operator."""
    total = describe(binding.value)
    if not isinstance(total, op.QAdd):
        return None
    a, b = binding.value.args
    swapped = dataclasses.replace(
        total,
        a_zero_point=total.b_zero_point,
        b_zero_point=total.a_zero_point,
        a_multiplier=total.b_multiplier,
        b_multiplier=total.a_multiplier,
    )
    # The later operand first: its result is what is still in the cache.
    for operand, residual, attrs in ((b, a, swapped), (a, b, total)):
        producer = flow.producers.get(operand)
        if producer is None or a is b or tensor_type(a).shape != tensor_type(b).shape:
            continue
        convolution = _extensible(producer)
        if convolution is not None and flow.only_user(producer.var) is not None:
            return producer, residual, op.QConv2dAdd.of(convolution, attrs)
    return None


def write_frames(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with padding written by the convolutions whose result only it reads.

    Before -> after: `y = nn.pad(qnn.conv2d(x, ...), p)` becomes `y = qnn.conv2d(x, ..., frame=p)`.
    """
    flow = Dataflow.of(module)
    framed: dict[relax.Var, tuple[relax.Var, op.QConv2d]] = {}
    for binding in flow.bindings:
        pad = describe(binding.value)
        if not isinstance(pad, op.Pad) or (producer := flow.producers.get(binding.value.args[0])) is None:
            continue
        convolution = _extensible(producer)
        if convolution is not None and flow.only_user(producer.var) is not None:
            changed = dataclasses.replace(convolution, frame=pad.padding, frame_value=int(pad.value))
            framed[producer.var] = (binding.var, changed)
    pads = {pad for pad, _ in framed.values()}
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        if binding.var in framed:
            padded, attrs = framed[binding.var]
            call = make_call(attrs, *(builder.replaced(a) for a in binding.value.args))
            builder.values[padded] = builder.emit(call, binding.var.name)
        elif binding.var not in pads:
            builder.copy(binding)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _extensible(binding: Binding) -> op.QConv2d | None:
    """Return a convolution that can be extended: one that ends in 8 bits, and not a depthwise one."""
    attrs = describe(binding.value)
    if not isinstance(attrs, op.QConv2d) or attrs.output_dtype != "uint8":
        return None
    out, _, _, per_group = tensor_type(binding.value.args[1]).shape
    return None if attrs.groups > 1 and per_group == 1 and out == attrs.groups else attrs
