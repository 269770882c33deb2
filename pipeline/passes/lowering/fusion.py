"""FuseResidualAdds, FuseImageInputs and WriteHalos: fewer trips of a tensor through memory."""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, make_call, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder

MAX_PLANES = 4
"""Channels of an image that are interleaved by byte shuffles; more are moved last by a transposition."""


def fuse_residual_adds(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with sums fused into the convolutions that only they read.

    Before -> after: `y = qnn.add(qnn.conv2d(x, ...), r)` becomes `y = qnn.conv2d_add(x, ..., r)`; the same for `nn`.
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


def _find_convolution(flow: Dataflow, binding: Binding) -> tuple[Binding, relax.Expr, ops.Operator] | None:
    """Return the convolution that a sum can be fused into, what is added to it, and the fused operator."""
    total = describe(binding.value)
    if not isinstance(total, ops.Add | ops.QAdd):
        return None
    a, b = binding.value.args
    # The later operand first: its result is what is still in the cache.
    for operand, residual, first in ((b, a, False), (a, b, True)):
        producer = flow.producers.get(operand)
        if producer is None or a.same_as(b) or tensor_type(a).shape != tensor_type(b).shape:
            continue
        convolution = _extensible(producer)
        if convolution is None or flow.only_user(producer.var) is None:
            continue
        if isinstance(total, ops.QAdd) and isinstance(convolution, ops.QConv2d):
            return producer, residual, ops.QConv2dAdd.of(convolution, total if first else total.swapped())
        if isinstance(total, ops.Add) and isinstance(convolution, ops.Conv2d):
            return producer, residual, ops.Conv2dAdd.of(convolution, total)
    return None


def fuse_lookups(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with tables looked up by the convolutions whose result only they read.

    Before -> after: `y = qnn.lookup(qnn.conv2d(x, ...), table)` becomes `y = qnn.conv2d_lookup(x, ..., table)`.
    """
    flow = Dataflow.of(module)
    fusions = {b.var: f for b in flow.bindings if (f := _find_looked_up(flow, b)) is not None}
    convolutions = {convolution.var for convolution, _ in fusions.values()}
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        if binding.var in fusions:
            convolution, attrs = fusions[binding.var]
            arguments = [builder.replaced(a) for a in (*convolution.value.args, binding.value.args[1])]
            builder.values[binding.var] = builder.emit(make_call(attrs, *arguments), binding.var.name)
        elif binding.var not in convolutions:
            builder.copy(binding)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _find_looked_up(flow: Dataflow, binding: Binding) -> tuple[Binding, ops.QConv2dLookup] | None:
    """Return the convolution that a lookup can be fused into, and the fused operator."""
    if not isinstance(describe(binding.value), ops.QLookup):
        return None
    producer = flow.producers.get(binding.value.args[0])
    convolution = None if producer is None else describe(producer.value)
    if producer is None or not isinstance(convolution, ops.QConv2d) or isinstance(convolution, ops.QConv2dAdd):
        return None
    if convolution.output_dtype != "uint8" or flow.only_user(producer.var) is None:
        return None
    return producer, ops.QConv2dLookup(**dataclasses.asdict(convolution))


def fuse_image_inputs(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with images quantized and their channels moved last in one pass.

    Before -> after: `y = qnn.quantize(permute_dims(x, [0, 2, 3, 1]))` becomes `y = qnn.quantize_image(x)`.
    """
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        attrs, image = describe(binding.value), _few_planes(flow, binding)
        if isinstance(attrs, ops.Quantize) and image is not None:
            call = make_call(ops.QuantizeImage(attrs.inverse_scale, attrs.zero_point), builder.replaced(image))
            builder.values[binding.var] = builder.emit(call, binding.var.name)
        else:
            builder.copy(binding)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _few_planes(flow: Dataflow, binding: Binding) -> relax.Expr | None:
    """Return x if a binding's argument is an image x of a few planes, [N,C,H,W], with its channels moved last."""
    producer = flow.producers.get(binding.value.args[0]) if isinstance(binding.value, relax.Call) else None
    if producer is None or producer.operator != "relax.permute_dims":
        return None
    x = producer.value.args[0]
    axes = [int(a) for a in producer.value.attrs["axes"]]
    return x if axes == [0, 2, 3, 1] and tensor_type(x).shape[1] <= MAX_PLANES else None


def write_halos(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with padding written by those whose result it is of: convolutions, image inputs, pooling.

    Before -> after: `y = nn.pad(qnn.conv2d(x, ...), p)` becomes `y = qnn.conv2d(x, ..., halo=p)`; the same for `nn`.
    Nobody else may read what is padded, but for sums: these find it inside the halo.
    """
    flow = Dataflow.of(module)
    changed: dict[relax.Var, ops.WithHalo] = {}
    padded: dict[relax.Var, relax.Var] = {}
    for binding in flow.bindings:
        pad = describe(binding.value)
        if not isinstance(pad, ops.Pad) or (producer := flow.producers.get(binding.value.args[0])) is None:
            continue
        others = [user for user in flow.users[producer.var] if not user.var.same_as(binding.var)]
        # A sum may have been given a halo of its own before.
        sums = {u.var: _adding_inside(changed.get(u.var, describe(u.value)), u, producer.var, pad) for u in others}
        writer = _writer(producer)
        if writer is None or producer.var in flow.outputs or None in sums.values():
            continue
        padded[binding.var] = producer.var
        changed[producer.var] = changed.get(producer.var, writer).with_halo(pad.padding, pad.value)
        changed |= {var: attrs for var, attrs in sums.items() if attrs is not None}
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        if binding.var in padded:
            builder.values[binding.var] = builder.values[padded[binding.var]]
        elif binding.var in changed:
            call = make_call(changed[binding.var], *(builder.replaced(a) for a in binding.value.args))
            builder.values[binding.var] = builder.emit(call, binding.var.name)
        else:
            builder.copy(binding)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _writer(producer: Binding) -> ops.WithHalo | None:
    """Return an operator that can write a halo around its result; None if it can't."""
    operator = describe(producer.value)
    return operator if isinstance(operator, ops.WithHalo) and _is_extensible(operator, producer) else None


def _is_extensible(operator: ops.WithHalo, binding: Binding) -> bool:
    return operator.extensible(*(tensor_type(a) for a in binding.value.args))


def _adding_inside(
    attrs: ops.Operator | None, user: Binding, var: relax.Var, pad: ops.Pad
) -> ops.Conv2dAdd | ops.QConv2dAdd | None:
    """Return a sum that finds `var` inside a halo; None if `user` isn't one, or needs the pixels of `var` together.

    Args:
        attrs: what `user` is, or has become.
        user: a binding that reads `var`.
        var: what gets the halo.
        pad: the halo.
    """
    if not isinstance(attrs, ops.Conv2dAdd | ops.QConv2dAdd) or tensor_type(user.value.args[1]).shape[1:3] == (1, 1):
        return None
    *others, residual = user.value.args
    if not residual.same_as(var) or any(other.same_as(var) for other in others):
        return None
    return dataclasses.replace(attrs, residual_halo=pad.padding)


def _extensible(binding: Binding) -> ops.Conv2d | ops.QConv2d | None:
    """Return a convolution that can be extended; None for any other operator."""
    operator = describe(binding.value)
    if not isinstance(operator, ops.Conv2d | ops.QConv2d) or not _is_extensible(operator, binding):
        return None
    return operator
