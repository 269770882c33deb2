"""FuseHardSwishes: a hard-swish is fused into the convolution whose sums it reads.

Before -> after: `y = qnn.hard_swish(qnn.conv2d(x, ..., output_dtype="float32"), factor)` becomes
`y = qnn.conv2d_hard_swish(x, ..., factor)`, if nothing else reads the convolution's result.
"""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite


def _check(match: Match) -> str | None:
    if match.result_type.dtype != "uint8":
        return f"its result is {match.result_type.dtype}"
    dtype = tensor_type(match.call("convolution").args[0]).dtype
    return None if dtype == "uint8" else f"the convolution reads {dtype}"


def _rewrite(match: Match) -> relax.Expr:
    function = match.operator("function", ops.QHardSwish)
    fused = ops.QConv2dHardSwish.of(match.operator("convolution", ops.QConv2d), function)
    return make_call(fused, *match.call("convolution").args, match["factor"])


RULE = Rule(
    "fuse_hard_swish",
    call(
        ops.QHardSwish,
        call(ops.QConv2d, name="convolution", read_once=True),
        anything("factor"),
        name="function",
    ),
    _rewrite,
    _check,
)


def fuse_hard_swishes(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with hard-swishes fused into convolutions; see the module's docstring."""
    return rewrite(module, RULE)
