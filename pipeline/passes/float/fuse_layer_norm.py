"""FuseLayerNorm: a layer normalization that consists of single operators becomes one `nn.layer_norm`.

Before -> after: with `d = x - mean(x)` over the last axis, `d / sqrt(mean(d * d) + epsilon) * gamma + beta` becomes
`nn.layer_norm(x, gamma, beta)`. Models for operator sets before 17, which have no LayerNormalization, have this form.

Precondition: before PropagateLayout, which may move the last axis.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import make_constant
from pipeline.ir.rewriting import Match, Pattern, Rule, anything, call, constant_value, one_of, rewrite


def _mean(x: Pattern) -> Pattern:
    def over_the_last_axis(mean: relax.Call) -> bool:
        axes, rank = mean.attrs["axis"], len(tensor_type(mean.args[0]).shape)
        return axes is not None and bool(mean.attrs["keepdims"]) and [int(a) % rank for a in axes] == [rank - 1]

    return call("relax.mean", x, where=over_the_last_axis)


X = anything("x")
CENTRED = call("relax.subtract", X, _mean(X))
SQUARE = one_of(
    call("relax.multiply", CENTRED, CENTRED), call("relax.power", CENTRED, constant_value("2", lambda v: v.size > 0))
)
VARIANCE = call("relax.add", _mean(SQUARE), constant_value("epsilon", lambda v: v.size == 1), commutative=True)
NORMALIZED = call("relax.divide", CENTRED, call("relax.sqrt", VARIANCE))
SCALED = call("relax.multiply", NORMALIZED, constant_value("gamma"), commutative=True)


def _check(match: Match) -> str | None:
    row = match.result_type.shape[-1]
    if "2" in match.captures and not (match.value("2") == 2).all():
        return "the power isn't a square"
    if tensor_type(match["x"]).shape != match.result_type.shape:
        return "gamma or beta has more axes than x"
    if match.value("gamma").size != row or match.value("beta").size != row:
        return "gamma or beta doesn't have one value for each index of the last axis"
    return None


def _rewrite(match: Match) -> relax.Expr:
    constants = (make_constant(match.value(name).reshape(-1).astype("float32")) for name in ("gamma", "beta"))
    return make_call(ops.LayerNorm(float(np.float32(match.value("epsilon").item()))), match["x"], *constants)


RULE = Rule("fuse_layer_norm", call("relax.add", SCALED, constant_value("beta"), commutative=True), _rewrite, _check)


def fuse_layer_norm(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with layer normalizations fused; see the module's docstring."""
    return rewrite(module, RULE)
