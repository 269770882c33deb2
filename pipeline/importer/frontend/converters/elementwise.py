"""Operators that compute each element by itself, where ONNX's rules are not Relax's."""

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
    """Limits that are constants -> maximum and minimum with scalars; a limit that is NaN is none."""
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
    """Powers have the base's type, whatever the exponent's."""
    base, exponent = node.dtype, node.input_type(1).dtype
    if is_float(base):
        right = node.required(1)
        return relax.op.power(node.x, _cast(node, right, exponent, base))
    # Exact as long as the result has no more than 53 bits.
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
    """The remainder: with `fmod` of the dividend's sign, without of the divisor's."""
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
    """Integers are divided towards zero."""
    if is_float(node.dtype):
        return relax.op.divide(node.x, node.required(1))
    _check_divisor(node)
    return relax.op.divide(node.x, node.required(1))


def _check_divisor(node: Node) -> None:
    value = node.constant(1)
    if value is not None and (value == 0).any():
        raise ModelError("it divides integers by zero")


def is_infinite(node: Node) -> relax.Expr:
    """Whether values are infinite, of the signs that are asked for."""
    found = []
    for name, value in (("detect_positive", np.inf), ("detect_negative", -np.inf)):
        if node.flag(name, 1):
            found.append(node.emit(relax.op.equal(node.x, scalar(value, node.dtype))))
    if not found:
        return make_constant(np.zeros(node.shape, "bool"))
    return found[0] if len(found) == 1 else relax.op.logical_or(*found)


def bit_shift(node: Node) -> relax.Expr:
    """Shifts by the type's width or more, which negative ones are taken for, leave nothing but the sign."""
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
    """`x` above 0, `slope * x` below; slopes are broadcast to x -> `nn.prelu` for several constant ones."""
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
    """Return the converter of an operator with any number of inputs, which a function of two makes one."""

    def convert(node: Node) -> relax.Expr:
        result = node.x
        for i in range(1, len(node.inputs)):
            result = node.emit(function(result, node.required(i)))
        return result

    return convert


_sum = variadic(relax.op.add)


def mean(node: Node) -> relax.Expr:
    """The mean of tensors, broadcast to one another."""
    total = node.emit(_sum(node)) if len(node.inputs) > 1 else node.x
    return relax.op.multiply(total, scalar(1 / len(node.inputs), node.dtype))


def cast(node: Node) -> relax.Expr:
    """Numbers of another type: whole numbers cut off what doesn't fit, and anything that isn't 0 is true."""
    return _to(node, str(helper.tensor_dtype_to_np_dtype(int(node.attributes["to"]))))


def cast_like(node: Node) -> relax.Expr:
    """Numbers of another tensor's type."""
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
        # Of NaN, TVM says that it isn't unequal to anything.
        return relax.op.logical_not(node.emit(relax.op.equal(node.x, scalar(0, before))))
    if is_float(before) and not is_float(after) and after not in ("int64", "uint64"):
        # Through 64 bits, of which the lower ones are kept: what C does with smaller types isn't defined.
        return relax.op.astype(node.emit(relax.op.astype(node.x, "int64")), after)
    return relax.op.astype(node.x, after)
