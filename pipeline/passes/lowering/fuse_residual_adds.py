"""FuseResidualAdds: an addition is fused into the convolution that computes one of its operands.

Before -> after: `y = qnn.add(qnn.conv2d(x, ...), r)` becomes `y = qnn.conv2d_add(x, ..., r)`; the same for `nn.add` and
`nn.conv2d`. The convolution's result then stays in registers; the addition must be its only reader. Depthwise
convolutions, and integer ones with a float32 result, can't add a residual.
"""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.operator import Operator
from pipeline.ir.rewriting import Match, Pattern, Rule, anything, call, one_of, rewrite


def _check(match: Match) -> str | None:
    if tensor_type(match["convolution"]).shape != tensor_type(match["residual"]).shape:
        return "the two shapes differ"
    summed = {tensor_type(match[name]).dtype for name in ("residual", "convolution")}
    if summed != {match.result_type.dtype}:
        return "the two dtypes differ, or the sum's does"
    types = (tensor_type(a) for a in match.call("convolution").args)
    epilogue = match.operator("convolution", ops.WithHalo).has_epilogue(*types)
    return None if epilogue else "the convolution's kernel can't add a residual: it is depthwise, or gives float32"


def _fused(match: Match) -> relax.Expr:
    addition, convolution = match.operator("sum", ops.QAdd), match.operator("convolution", ops.QConv2d)
    first = match.call("sum").args[0].same_as(match["convolution"])
    fused = ops.QConv2dAdd.of(convolution, addition if first else addition.swapped())
    return make_call(fused, *match.call("convolution").args, match["residual"])


def _fused_float(match: Match) -> relax.Expr:
    fused = ops.Conv2dAdd.of(match.operator("convolution", ops.Conv2d), match.operator("sum", ops.Add))
    return make_call(fused, *match.call("convolution").args, match["residual"])


def _sum(add: type[Operator], conv: type[Operator]) -> Pattern:
    convolution, residual = call(conv, name="convolution", read_once=True), anything("residual")
    # The second operand is tried first: it is usually computed later, so the first one can be the residual.
    return one_of(call(add, residual, convolution, name="sum"), call(add, convolution, residual, name="sum"))


RULES = (
    Rule("fuse_residual_add", _sum(ops.QAdd, ops.QConv2d), _fused, _check),
    Rule("fuse_float_residual_add", _sum(ops.Add, ops.Conv2d), _fused_float, _check),
)


def fuse_residual_adds(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with additions fused into convolutions; see the module's docstring."""
    return rewrite(module, *RULES)
