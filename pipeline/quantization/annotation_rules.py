"""What annotate knows of each operator: its type, its role, and what keeps it from being an integer operator.

To make an operator quantizable, add a row to `RULES`, and a rule of the same key to `quantization.realization_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, tensor_type
from pipeline.ir.dataflow import Binding, constant, operator_name
from pipeline.ops import pointwise


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


def lower_bound(binding: Binding, known: dict[relax.Var, float]) -> float:
    """Return a value that the operator's result never falls below; minus infinity if nothing can be proven.

    Args:
        binding: the operator.
        known: lower bounds of earlier tensors.
    """
    attrs = describe(binding.value)
    args = [known.get(a, -math.inf) for a in binding.value.args if isinstance(a, relax.Var)]
    if isinstance(attrs, ops.Conv2d | ops.Conv2dTranspose | ops.Dense | ops.Add):
        clip = attrs.clip_min if attrs.clip_min is not None else -math.inf
        return max(clip, sum(args)) if isinstance(attrs, ops.Add) and len(args) == 2 else clip
    if isinstance(attrs, ops.Softmax):
        return 0.0
    if isinstance(attrs, ops.Unary):
        return pointwise.parse(attrs.expression).evaluate(args[0], float, _function_bound)
    if binding.operator == "relax.concat" and isinstance(binding.value.args[0], relax.Tuple):
        return min(known.get(f, -math.inf) for f in binding.value.args[0].fields)
    if binding.operator == "relax.multiply" and len(args) == 2 and min(args) >= 0:
        return 0.0
    if isinstance(attrs, ops.Pad):
        return min(args[0], attrs.value)
    if isinstance(attrs, ops.MaxPool2d | ops.DepthToSpace | ops.ResizeBilinear) or (
        binding.operator in _ORDER_PRESERVING and args
    ):
        return args[0]
    return -math.inf


_ORDER_PRESERVING = frozenset(
    f"relax.{name}"
    for name in (
        "expand_dims",
        "flatten",
        "image.resize2d",
        "mean",
        "nn.avg_pool2d",
        "permute_dims",
        "reshape",
        "squeeze",
        "strided_slice",
        "take",
    )
)


def _function_bound(function: str, *bounds: float) -> float:
    """Return a lower bound of a function's value, given those of its operands."""
    if function in ("sigmoid", "exp", "abs", "sqrt"):
        return 0.0
    if function == "maximum":
        return max(bounds)
    if function == "minimum":
        return min(bounds)
    if function == "add":
        return sum(bounds)
    if function in ("multiply", "divide") and min(bounds) >= 0:
        return 0.0
    return -math.inf


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
    products = math.prod(weight.shape[1:])
    if products * 127 * 255 >= 2**30:
        return f"its sums of {products} products could exceed 32 bits"
    return None


def _two_activations(binding: Binding) -> str | None:
    if any(not isinstance(a, relax.Var) for a in binding.value.args):
        return "an operand is constant"
    return _float_result(binding)


def _matrices(binding: Binding) -> str | None:
    depth = tensor_type(binding.value.args[0]).shape[-1]
    if depth > ops.QMatMul.MAX_DEPTH:
        return f"its sums of {depth} products could exceed 32 bits"
    return _two_activations(binding)


def _short_rows(binding: Binding) -> str | None:
    length = tensor_type(binding.var).shape[-1]
    if length > MAX_SOFTMAX_ROW:
        return f"its rows of {length} values are too long for exponentials in 32 bits"
    return _float_result(binding)


MAX_SOFTMAX_ROW = 2**16
"""Longest rows of which the exponentials, of at least 14 bits each, can be summed in 32 bits."""


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
