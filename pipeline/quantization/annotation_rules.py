"""What annotate knows of each operator: its type, its role, and what keeps it from being an integer operator.

To make an operator quantizable, add a row to `RULES`, and a rule of the same key to `quantization.realization_rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, tensor_type
from pipeline.ir.dataflow import Binding, constant, operator_name


class Role(Enum):
    """Why an operator would be computed in int8."""

    COMPUTE = "compute"
    """It does the work: int8 wherever possible."""
    BRIDGE = "bridge"
    """It stands between: int8 where its inputs are 8-bit and something 8-bit follows."""
    MOVEMENT = "movement"
    """A bridge that only moves values: its result has its input's scale."""


@dataclass(frozen=True)
class Rule:
    """What annotate knows of one operator.

    Attributes:
        kind: the operator's type, as users name it in options.
        role: see `Role`.
        obstacle: returns why this one can't be an integer operator; None if it can.
    """

    kind: Callable[[Binding], str]
    role: Role
    obstacle: Callable[[Binding], str | None]


def rule_for(binding: Binding) -> Rule | None:
    """Return the rule for a binding's operator; None if there is none."""
    return RULES.get(binding.operator)


def kind_of(binding: Binding) -> str:
    """Return an operator's type, as reports name it."""
    rule = rule_for(binding)
    return rule.kind(binding) if rule is not None else binding.operator.removeprefix("relax.")


def _conv2d_kind(binding: Binding) -> str:
    attrs = describe(binding.value)
    if (
        isinstance(attrs, ops.Conv2d)
        and attrs.groups > 1
        and attrs.groups == tensor_type(binding.value.args[0]).shape[3]
    ):
        return "depthwise_conv2d"
    return "conv2d"


def _constant_weights(binding: Binding) -> str | None:
    weight, bias = constant(binding.value.args[1]), constant(binding.value.args[2])
    if weight is None or bias is None:
        return "its weights aren't constant"
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        return "its weights hold NaN or infinity"
    return _may_overflow(binding)


def _may_overflow(binding: Binding) -> str | None:
    return ops.traits_of(binding).may_overflow(*(tensor_type(a) for a in binding.value.args))


def _two_activations(binding: Binding) -> str | None:
    if any(not isinstance(a, relax.Var) for a in binding.value.args):
        return "an operand is constant"
    return _float_result(binding)


def _matrices(binding: Binding) -> str | None:
    return _may_overflow(binding) or _two_activations(binding)


def _short_rows(binding: Binding) -> str | None:
    return _may_overflow(binding) or _float_result(binding)


def _float_result(binding: Binding) -> str | None:
    dtype = tensor_type(binding.var).dtype
    return None if dtype == "float32" else f"its result is {dtype}"


def _image_mean(binding: Binding) -> str | None:
    axes, rank = binding.value.attrs["axis"], len(tensor_type(binding.value.args[0]).shape)
    if rank != 4 or axes is None or sorted(int(a) % rank for a in axes) != [1, 2]:
        return "it isn't a mean over the height and width of an image"
    return _float_result(binding)


def _concat(binding: Binding) -> str | None:
    fields = binding.value.args[0]
    if not isinstance(fields, relax.Tuple) or any(not isinstance(f, relax.Var) for f in fields.fields):
        return "an operand is constant"
    return _float_result(binding)


def _avg_pool(binding: Binding) -> str | None:
    if any(int(d) != 1 for d in binding.value.attrs["dilation"]) or binding.value.attrs["layout"] != "NHWC":
        return "it is dilated or not NHWC"
    return _float_result(binding)


def _nearest(binding: Binding) -> str | None:
    attrs = binding.value.attrs
    if attrs["method"] != "nearest_neighbor" or attrs["coordinate_transformation_mode"] not in NEAREST_MODES:
        return "it interpolates between pixels"
    return _float_result(binding)


NEAREST_MODES = ("asymmetric", "half_pixel")
"""How a nearest-neighbour resize may find its pixels."""


def _fixed_choice(binding: Binding) -> str | None:
    x, indices = binding.value.args
    if not isinstance(x, relax.Var) or constant(indices) is None:
        return "what it picks isn't fixed"
    return _float_result(binding)


def _named(kind: str) -> Callable[[Binding], str]:
    return lambda _: kind


RULES: dict[str, Rule] = {
    "nn.conv2d": Rule(_conv2d_kind, Role.COMPUTE, _constant_weights),
    "nn.conv2d_transpose": Rule(_named("conv2d_transpose"), Role.COMPUTE, _constant_weights),
    "nn.dense": Rule(_named("dense"), Role.COMPUTE, _constant_weights),
    "nn.matmul": Rule(_named("matmul"), Role.COMPUTE, _matrices),
    "nn.softmax": Rule(_named("softmax"), Role.BRIDGE, _short_rows),
    "nn.add": Rule(_named("add"), Role.BRIDGE, _two_activations),
    "nn.unary": Rule(_named("unary"), Role.BRIDGE, _float_result),
    "nn.prelu": Rule(_named("prelu"), Role.BRIDGE, _float_result),
    "relax.multiply": Rule(_named("multiply"), Role.BRIDGE, _two_activations),
    "relax.mean": Rule(_named("avg_pool2d"), Role.BRIDGE, _image_mean),
    "relax.nn.avg_pool2d": Rule(_named("avg_pool2d"), Role.BRIDGE, _avg_pool),
    "relax.concat": Rule(_named("concat"), Role.BRIDGE, _concat),
    "nn.max_pool2d": Rule(_named("max_pool2d"), Role.MOVEMENT, _float_result),
    "nn.depth_to_space": Rule(_named("depth_to_space"), Role.MOVEMENT, _float_result),
    "nn.resize_bilinear": Rule(_named("resize"), Role.MOVEMENT, _float_result),
    "nn.pad": Rule(_named("pad"), Role.MOVEMENT, _float_result),
    "relax.reshape": Rule(_named("reshape"), Role.MOVEMENT, _float_result),
    "relax.permute_dims": Rule(_named("transpose"), Role.MOVEMENT, _float_result),
    "relax.squeeze": Rule(_named("reshape"), Role.MOVEMENT, _float_result),
    "relax.expand_dims": Rule(_named("reshape"), Role.MOVEMENT, _float_result),
    "relax.flatten": Rule(_named("reshape"), Role.MOVEMENT, _float_result),
    "relax.strided_slice": Rule(_named("slice"), Role.MOVEMENT, _float_result),
    "relax.image.resize2d": Rule(_named("resize"), Role.MOVEMENT, _nearest),
    "relax.take": Rule(_named("gather"), Role.MOVEMENT, _fixed_choice),
}
"""Operator -> what annotate knows of it. Operators without a row stay in float."""

KINDS = (
    "add",
    "avg_pool2d",
    "concat",
    "conv2d",
    "conv2d_transpose",
    "dense",
    "depth_to_space",
    "depthwise_conv2d",
    "gather",
    "matmul",
    "max_pool2d",
    "multiply",
    "pad",
    "prelu",
    "reshape",
    "resize",
    "slice",
    "softmax",
    "transpose",
    "unary",
)
"""The operator types, as options name them."""


def activations(binding: Binding) -> tuple[relax.Var, ...]:
    """Return the activation tensors that an operator reads."""
    value = binding.value
    if not isinstance(value, relax.Call):
        return ()
    fields = value.args[0].fields if value.args and isinstance(value.args[0], relax.Tuple) else value.args
    return tuple(a for a in fields if isinstance(a, relax.Var))


def unknown_operator_reason(binding: Binding) -> str:
    """Return the reason that is given for an operator without a rule."""
    name = operator_name(binding.value).removeprefix("relax.")
    if name == "call_tir":
        name = binding.value.args[0].name_hint
    return f"there is no integer form of {name}"
