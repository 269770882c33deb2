"""FuseClip: limits of a result, such as a ReLU, are fused into the operator that computes it.

Before -> after: `maximum(conv2d(...), 0)` becomes `conv2d(..., clip_min=0)`; the same for `conv2d_transpose`, `dense`
and `nn.add`. Additions of two activations become `nn.add`.

Precondition: images are NHWC (after PropagateLayout).
"""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call
from pipeline.ir.dataflow import constant
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite

Limits = tuple[float | None, float | None]


def _limits(limit: relax.Call) -> Limits | None:
    """Return the limits (low, high) of a call that limits its operand, each a number or None; None for other calls."""
    name = limit.op.name
    if name == "relax.nn.relu":
        return 0.0, None
    if name == "relax.clip":
        return float(limit.args[1].value), float(limit.args[2].value)
    value = constant(limit.args[1])
    if value is None or value.size != 1:
        return None
    bound = float(value.reshape(()))
    return (bound, None) if name == "relax.maximum" else (None, bound)


def _clipped(match: Match) -> ops.Clipped | None:
    low, high = _limits(match.call("limit")) or (None, None)
    return match.operator("clipped", ops.Clipped).with_limits(low, high)


def _check(match: Match) -> str | None:
    return None if _clipped(match) else "its own limits and these don't overlap"


def _rewrite(match: Match) -> relax.Expr:
    return make_call(_clipped(match) or match.operator("clipped", ops.Clipped), *match.call("clipped").args)


def _check_add(match: Match) -> str | None:
    if match.result_type.dtype != "float32":
        return f"its result is {match.result_type.dtype}"
    activations = isinstance(match["a"], relax.Var) and isinstance(match["b"], relax.Var)
    return None if activations else "an operand is constant"


RULES = (
    Rule(
        "fuse_clip",
        call(
            ["relax.nn.relu", "relax.clip", "relax.maximum", "relax.minimum"],
            call(ops.Clipped, name="clipped", read_once=True),
            name="limit",
            where=lambda limit: _limits(limit) is not None,
        ),
        _rewrite,
        _check,
    ),
    Rule(
        "replace_add",
        call("relax.add", anything("a"), anything("b")),
        lambda match: make_call(ops.Add(), match["a"], match["b"]),
        _check_add,
    ),
)


def fuse_clip(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with limits fused into the operators before them; see the module's docstring."""
    return rewrite(module, *RULES)
