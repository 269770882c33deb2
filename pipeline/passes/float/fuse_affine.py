"""FuseAffine: multiplications and additions by constants, per channel, are folded into weights.

Before -> after: `conv2d(x, w, b) * m + a`, where m and a have one value per channel or one for all, becomes
`conv2d(x, w * m, b * m + a)`; the same for `conv2d_transpose` and `dense`. A per-channel `x * m + a` after any other
operator becomes a depthwise 1x1 convolution, which can be quantized; an example is a batch normalization before its
convolution.

For a chain of such operators, weights are multiplied in float64 and rounded to float32 once. The pass therefore folds
into the weights of the old program, not into weights that it has folded already.

Precondition: images are NHWC (after PropagateLayout).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of, tensor_type
from pipeline.ir.dataflow import Binding, DataflowBuilder, constant, make_constant
from pipeline.ir.rewriting import rewrite_bindings

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class _Affine:
    """The function `x * scale + shift`, with [channels] float64 values each; channels are the last axis of x."""

    x: relax.Var
    scale: Array
    shift: Array


def fuse_affine(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with per-channel multiplications and additions folded; see the module's docstring."""
    # Variables of the old program as affine functions of earlier variables of it.
    affine: dict[relax.Var, _Affine] = {}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        step = _affine_step(binding)
        if step is None:
            return None
        before = affine.get(step.x)
        if before is not None and builder.flow.only_user(step.x) is not None:
            step = _Affine(before.x, before.scale * step.scale, before.shift * step.scale + step.shift)
        fold = _folding(builder, step)
        if fold is None:
            return None
        affine[binding.var] = step
        # If another step follows, which is folded together with this one, nothing reads this one's result.
        follower = builder.flow.only_user(binding.var)
        return None if follower is not None and _affine_step(follower) is not None else fold()

    return rewrite_bindings(module, visit)


def _affine_step(binding: Binding) -> _Affine | None:
    """Return a binding as a constant per-channel affine function of one variable; None if it isn't one."""
    sign = {"relax.add": 1, "relax.subtract": -1, "relax.multiply": 0, "relax.divide": 0}
    if binding.operator not in sign or tensor_type(binding.var).dtype != "float32":
        return None
    left, right = binding.value.args
    a, b = constant(left), constant(right)
    if (a is None) == (b is None) or (a is not None and binding.operator in ("relax.subtract", "relax.divide")):
        return None
    x, value = (left, b) if b is not None else (right, a)
    shape = tensor_type(x).shape
    channels = shape[-1] if shape else 1
    if value is None or tensor_type(binding.var).shape != shape or value.size not in (1, channels):
        return None
    if value.size > 1 and value.shape[-1] != channels:
        return None
    factor = np.broadcast_to(value.reshape(-1).astype("float64"), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    if binding.operator == "relax.multiply":
        return _Affine(x, factor, zero)
    if binding.operator == "relax.divide":
        return _Affine(x, 1.0 / factor, zero) if (factor != 0).all() else None
    return _Affine(x, one, sign[binding.operator] * factor)


def _folding(builder: DataflowBuilder, step: _Affine) -> Callable[[], relax.Expr] | None:
    """Return what makes the expression that computes `step`, with its factors folded into weights.

    None means that it stays as it is; a step that can be folded can also be folded together with the next one.
    """
    flow = builder.flow
    producer = flow.producers.get(step.x)
    operator = operator_of(producer.value) if producer is not None else None
    # The layer's result must have no other readers; operators in between have been checked before.
    read_once = len(flow.users[step.x]) == 1 and step.x not in flow.outputs
    if producer is not None and isinstance(operator, ops.Linear) and not operator.is_limited and read_once:
        weight, bias = constant(producer.value.args[1]), constant(producer.value.args[2])
        if weight is not None and bias is not None:
            x, of_row = builder.replaced(producer.value.args[0]), (-1, *(1,) * (weight.ndim - 1))
            return lambda: make_call(
                operator, x, _float(weight * step.scale.reshape(of_row)), _float(bias * step.scale + step.shift)
            )
    per_channel = np.ptp(step.scale) > 0 or np.ptp(step.shift) > 0
    if per_channel and len(tensor_type(step.x).shape) == 4 and (step.scale != 1).any():
        channels = len(step.scale)
        depthwise, x = ops.Conv2d(groups=channels), builder.replaced(step.x)
        factors = step.scale.reshape(channels, 1, 1, 1)
        return lambda: make_call(depthwise, x, _float(factors), _float(step.shift))
    return None


def _float(value: Array) -> relax.Expr:
    return make_constant(value.astype("float32"))
