"""FuseLookups: a table lookup is fused into the convolution whose result it reads.

Before -> after: `y = qnn.lookup(qnn.conv2d(x, ...), table)` becomes `y = qnn.conv2d_lookup(x, ..., table)`, if nothing
else reads the convolution's result. It is faster on instruction sets that look tables up in registers.
"""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite


def _check(match: Match) -> str | None:
    dtype = match.operator("convolution", ops.QConv2d).output_dtype
    if match.result_type.dtype != "uint8":
        return f"the table holds {match.result_type.dtype}"
    return None if dtype == "uint8" else f"the convolution's result is {dtype}"


def _rewrite(match: Match) -> relax.Expr:
    convolution = match.operator("convolution", ops.QConv2d)
    fused = ops.QConv2dLookup(**dataclasses.asdict(convolution))
    return make_call(fused, *match.call("convolution").args, match["table"])


RULE = Rule(
    "fuse_lookup",
    call(ops.QLookup, call(ops.QConv2d, name="convolution", read_once=True), anything("table")),
    _rewrite,
    _check,
)


def fuse_lookups(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with lookups fused into convolutions; see the module's docstring."""
    return rewrite(module, RULE)
