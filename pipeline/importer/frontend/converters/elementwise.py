"""Converters of elementwise operators whose definitions by ONNX and by Relax differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import helper
from tvm import relax

from pipeline import ops
from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import Node, is_float, scalar
from pipeline.ir import dataflow
from pipeline.ir.bridge import make_call
from pipeline.ir.dataflow import make_constant


def clip(node: Node) -> relax.Expr:
    """Clip -> maximum and minimum with scalars; NaN as a limit is no limit."""
    y, dtype = node.x, node.dtype
    for index, limit in ((1, relax.op.maximum), (2, relax.op.minimum)):
        expr, value = node.optional(index), node.constant(index)
        if expr is None:
            continue
        if value is None:
            bound = node.emit(relax.op.reshape(expr, []))
            if is_float(dtype):
                none = scalar(float("-inf") if index == 1 else float("inf"), dtype)
                bound = node.emit(relax.op.where(node.emit(relax.op.isnan(bound)), none, bound))
            y = node.emit(limit(y, bound))
        elif not is_float(dtype) or np.isfinite(value).all() or (value == (np.inf if index == 1 else -np.inf)).all():
            y = node.emit(limit(y, make_constant(value.reshape(()))))
    return y


def power(node: Node) -> relax.Expr:
    """Pow, whose result has the base's dtype whatever the exponent's is; powers of integers are computed in float64."""
    base, exponent = node.dtype, node.input_type(1).dtype
    if is_float(base):
        right = node.required(1)
        return relax.op.power(node.x, _cast(node, right, exponent, base))
    # This is exact for results of at most 53 bits.
    wide = node.emit(
        relax.op.power(
            _cast(node, node.x, base, "float64"),
            _cast(node, node.required(1), exponent, "float64"),
        )
    )
    return relax.op.astype(wide, base)


def _cast(node: Node, x: relax.Expr, before: str, after: str) -> relax.Expr:
    if before == after:
        return x
    value = dataflow.constant(x)
    return node.emit(relax.op.astype(x, after)) if value is None else make_constant(value.astype(after))


def modulo(node: Node) -> relax.Expr:
    """Mod: the remainder has the sign of the dividend with `fmod`, otherwise that of the divisor."""
    x, y, dtype = node.x, node.required(1), node.dtype
    if not is_float(dtype):
        _check_divisor(node)
        return (relax.op.mod if node.flag("fmod") else relax.op.floor_mod)(x, y)
    endless = node.emit(relax.op.logical_and(node.emit(relax.op.isfinite(x)), node.emit(relax.op.isinf(y))))
    remainder = node.emit(relax.op.where(endless, x, node.emit(relax.op.mod(x, y))))
    if node.flag("fmod"):
        return remainder
    zero = scalar(0, dtype)
    signs = [node.emit(relax.op.less(v, zero)) for v in (remainder, y)]
    differ, whole = node.emit(relax.op.logical_xor(*signs)), node.emit(relax.op.equal(remainder, zero))
    other = node.emit(relax.op.logical_and(differ, node.emit(relax.op.logical_not(whole))))
    return relax.op.where(other, node.emit(relax.op.add(remainder, y)), remainder)


def divide(node: Node) -> relax.Expr:
    """Div; quotients of integers are rounded towards zero."""
    if is_float(node.dtype):
        return relax.op.divide(node.x, node.required(1))
    _check_divisor(node)
    return relax.op.divide(node.x, node.required(1))


def _check_divisor(node: Node) -> None:
    value = node.constant(1)
    if value is not None and (value == 0).any():
        raise ModelError("it divides integers by zero")


def is_infinite(node: Node) -> relax.Expr:
    """IsInf, for the signs that the attributes ask for."""
    found = []
    for name, value in (("detect_positive", np.inf), ("detect_negative", -np.inf)):
        if node.flag(name, 1):
            found.append(node.emit(relax.op.equal(node.x, scalar(value, node.dtype))))
    if not found:
        return make_constant(np.zeros(node.shape, "bool"))
    return found[0] if len(found) == 1 else relax.op.logical_or(*found)


def bit_shift(node: Node) -> relax.Expr:
    """BitShift; a shift by the dtype's width or more, or by a negative number, leaves only the sign."""
    dtype, shift, right = node.dtype, node.required(1), node.text("direction", "LEFT") == "RIGHT"
    signed, last = dtype.startswith("int"), scalar(np.dtype(dtype).itemsize * 8 - 1, dtype)
    far = node.emit(relax.op.greater(shift, last))
    if signed:
        far = node.emit(relax.op.logical_or(far, node.emit(relax.op.less(shift, scalar(0, dtype)))))
    amount = node.emit(relax.op.where(far, last, shift))
    shifted = node.emit((relax.op.right_shift if right else relax.op.left_shift)(node.x, amount))
    return shifted if right and signed else relax.op.where(far, scalar(0, dtype), shifted)


def elu(node: Node) -> relax.Expr:
    """`x` above 0, `alpha * (exp(x) - 1)` below."""
    alpha = float(node.attributes.get("alpha", 1.0))
    zero, one = scalar(0, node.dtype), scalar(1, node.dtype)
    below = node.emit(relax.op.subtract(node.emit(relax.op.exp(node.emit(relax.op.minimum(node.x, zero)))), one))
    scaled = node.emit(relax.op.multiply(below, scalar(alpha, node.dtype)))
    return relax.op.add(node.emit(relax.op.maximum(node.x, zero)), scaled)


def prelu(node: Node) -> relax.Expr:
    """PRelu with several constant slopes -> `nn.prelu`; others -> arithmetic of Relax."""
    dtype, zero = node.dtype, scalar(0, node.dtype)
    if not is_float(dtype):
        scaled = node.emit(relax.op.multiply(node.x, node.required(1)))
        return relax.op.where(node.emit(relax.op.less(node.x, zero)), scaled, node.x)
    slopes = node.constant(1)
    if dtype == "float32" and slopes is not None and slopes.size > 1:
        return make_call(ops.PRelu(), node.x, make_constant(slopes))
    below = node.emit(relax.op.multiply(node.emit(relax.op.minimum(node.x, zero)), node.required(1)))
    return relax.op.add(node.emit(relax.op.maximum(node.x, zero)), below)


def variadic(function: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Callable[[Node], relax.Expr]:
    """Return the converter of an operator with any number of inputs, which are reduced by a function of two."""

    def convert(node: Node) -> relax.Expr:
        result = node.x
        for i in range(1, len(node.inputs)):
            result = node.emit(function(result, node.required(i)))
        return result

    return convert


_sum = variadic(relax.op.add)


def mean(node: Node) -> relax.Expr:
    """Mean of any number of tensors, which are broadcast."""
    total = node.emit(_sum(node)) if len(node.inputs) > 1 else node.x
    return relax.op.multiply(total, scalar(1 / len(node.inputs), node.dtype))


def cast(node: Node) -> relax.Expr:
    """Cast to another dtype: integers keep their lower bits, and everything but 0 is true."""
    return _to(node, str(helper.tensor_dtype_to_np_dtype(int(node.attributes["to"]))))


def cast_like(node: Node) -> relax.Expr:
    """CastLike: a cast to the dtype of another tensor."""
    return _to(node, node.input_type(1).dtype)


_STORABLE = frozenset({"bool", "bfloat16", "float16", "float32", "float64"}) | frozenset(
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
)


def _to(node: Node, after: str) -> relax.Expr:
    before = node.dtype
    if before not in _STORABLE or after not in _STORABLE:
        raise ModelError(f"there is no conversion of {before} to {after}")
    if before == after:
        return node.x
    if after == "bool":
        # Not by not_equal, for which TVM returns false for NaN.
        return relax.op.logical_not(node.emit(relax.op.equal(node.x, scalar(0, before))))
    if is_float(before) and not is_float(after) and after not in ("int64", "uint64"):
        # By way of int64, as LLVM doesn't define conversions to smaller types of values that don't fit.
        return relax.op.astype(node.emit(relax.op.astype(node.x, "int64")), after)
    return relax.op.astype(node.x, after)
