"""ReplaceRelaxOperators: some float operators of Relax become operators of ours, for which we have faster kernels.

Before -> after: `relax.mean` of images over height and width, and `relax.nn.avg_pool2d`, become `nn.avg_pool2d`;
`relax.multiply` becomes `nn.multiply`; `relax.maximum` and `relax.minimum` with a number become `nn.unary`, one for
both. `realize` writes these limits behind an int8 operator with an activation whose result is float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of, tensor_type
from pipeline.ir.dataflow import make_constant
from pipeline.ir.rewriting import Match, Rule, anything, call, constant_value, one_of, rewrite
from pipeline.ops.formula import X, apply
from pipeline.ops.pooling import counted_pixels


def _multiply(match: Match) -> relax.Expr:
    return make_call(ops.Multiply(), match["a"], match["b"])


def _check_float(match: Match) -> str | None:
    dtype = match.result_type.dtype
    return None if dtype == "float32" else f"its result is {dtype}"


def _axes(match: Match) -> list[int] | None:
    axes = match.call("mean").attrs["axis"]
    return None if axes is None else sorted(int(a) % len(tensor_type(match["x"]).shape) for a in axes)


def _check_mean(match: Match) -> str | None:
    image = len(tensor_type(match["x"]).shape) == 4 and _axes(match) == [1, 2]
    return _check_float(match) if image else "it isn't a mean over the height and width of an image"


def _mean(match: Match) -> relax.Expr:
    _, height, width, _ = tensor_type(match["x"]).shape
    multiplier = make_constant(np.full((1, 1), 1 / (height * width), "float32"))
    return _pooled(match, ops.AvgPool2d(pool_size=(height, width)), multiplier)


def _check_pool(match: Match) -> str | None:
    attrs = match.call("pool").attrs
    if str(attrs["layout"]) != "NHWC" or any(int(d) != 1 for d in attrs["dilation"]):
        return "it is dilated or not NHWC"
    return _check_float(match)


def _pool(match: Match) -> relax.Expr:
    attrs, x = match.call("pool").attrs, tensor_type(match["x"]).shape
    (window_h, window_w), (down, across) = ([int(v) for v in attrs[k]] for k in ("pool_size", "strides"))
    top, left, bottom, right = (int(v) for v in attrs["padding"])
    pool = ops.AvgPool2d((window_h, window_w), (down, across), (top, left, bottom, right))
    outs, include = match.result_type.shape[1:3], bool(attrs["count_include_pad"])
    counted = counted_pixels(x[1:3], outs, pool.pool_size, pool.strides, pool.padding, include)
    return _pooled(match, pool, make_constant((1 / counted).astype("float32")))


def _pooled(match: Match, pool: ops.AvgPool2d, multiplier: relax.Expr) -> relax.Expr:
    """Return a pooled image, reshaped if the mean doesn't keep height and width as axes."""
    pooled, shape = make_call(pool, match["x"], multiplier), match.result_type.shape
    if len(shape) == 4:
        return pooled
    name = match.binding.var.name
    image = match.builder.emit(pooled, name)
    return match.builder.emit(relax.op.reshape(image, list(shape)), f"{name}.flat")


def _only_limits(made: relax.Call) -> bool:
    operator = operator_of(made)
    return isinstance(operator, ops.Unary) and all(name in LIMITS for name, _ in operator.formula.steps)


def _check_limit(match: Match) -> str | None:
    same = tensor_type(match["x"]).shape == match.result_type.shape
    return _check_float(match) if same else "its result has another shape than what is limited"


def _limited(name: str) -> Callable[[Match], relax.Expr]:
    """Return the rewrite that limits a tensor by a number, together with a limit before it."""

    def rewritten(match: Match) -> relax.Expr:
        before = match.operator("before", ops.Unary).formula if "before" in match.captures else X
        return make_call(ops.Unary.of(apply(name, before, float(match.value("limit").reshape(())))), match["x"])

    return rewritten


LIMITS = ("maximum", "minimum")
"""The functions that limit values by a number."""

RULES = (
    *(
        Rule(
            f"replace_{name}",
            call(
                f"relax.{name}",
                one_of(call(ops.Unary, anything("x"), name="before", where=_only_limits), anything("x")),
                constant_value("limit", lambda value: value.size == 1),
                commutative=True,
            ),
            _limited(name),
            _check_limit,
        )
        for name in LIMITS
    ),
    Rule("replace_multiply", call("relax.multiply", anything("a"), anything("b")), _multiply, _check_float),
    Rule("replace_mean", call("relax.mean", anything("x"), name="mean"), _mean, _check_mean),
    Rule("replace_avg_pool", call("relax.nn.avg_pool2d", anything("x"), name="pool"), _pool, _check_pool),
)


def replace_relax_operators(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with float operators of Relax replaced; see the module's docstring."""
    return rewrite(module, *RULES)
