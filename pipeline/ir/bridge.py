"""Our operators as Relax operators, and the way from a Relax call to its description and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import relax
from tvm.ir import Op, make_node
from tvm.ir import _ffi_api as _ir
from tvm.tirx import IntImm

from pipeline.ir.operator import Operator
from pipeline.ir.types import TensorType

_known: dict[str, type[Operator]] = {}


class UnsupportedProgramError(ValueError):
    """A program isn't a straight line of operators on tensors of known shapes."""


class UnknownShapeError(UnsupportedProgramError):
    """A tensor's shape isn't known before the program runs."""


def tensor_type(expr: relax.Expr) -> TensorType:
    """Return the static type of a Relax tensor expression.

    Raises:
        UnknownShapeError: it isn't a tensor, or a dimension isn't known.
    """
    return from_relax_type(expr.ty)


def tensor_types(expr: relax.Expr) -> tuple[TensorType, ...]:
    """Return the static types of all tensors that an expression holds: of one, or of a tuple's; see `tensor_type`."""
    types = expr.ty.fields if isinstance(expr.ty, relax.TupleType) else (expr.ty,)
    return tuple(from_relax_type(t) for t in types)


def from_relax_type(ty: Any) -> TensorType:
    """Return the static type that a Relax type describes; see `tensor_type`."""
    if not isinstance(ty, relax.TensorType) or ty.shape is None or not isinstance(ty.shape, relax.ShapeExpr):
        raise UnknownShapeError(f"Expected a tensor of known shape, got {ty}")
    try:
        return TensorType(tuple(int(d) for d in ty.shape), str(ty.dtype))
    except TypeError as error:
        raise UnknownShapeError(f"Expected a tensor of known shape, got {ty}") from error


def has_known_shape(expr: relax.Expr) -> bool:
    """Return whether all tensors that an expression holds have known shapes."""
    return _is_static(expr.ty)


def _is_static(ty: Any) -> bool:
    if isinstance(ty, relax.TupleType):
        return all(_is_static(field) for field in ty.fields)
    if not isinstance(ty, relax.TensorType):
        return True
    return isinstance(ty.shape, relax.ShapeExpr) and all(isinstance(d, IntImm) for d in ty.shape)


def to_relax_type(ty: TensorType) -> relax.TensorType:
    """Return the Relax type for a static type."""
    return relax.TensorType(ty.shape, ty.dtype)


def make_call(attrs: Operator, *arguments: relax.Expr) -> relax.Call:
    """Return the Relax call of one of our operators, its type not yet inferred (a BlockBuilder does that)."""
    if len(arguments) != attrs.arity:
        raise ValueError(f"{attrs.name} takes {attrs.arguments}, got {len(arguments)} arguments")
    return relax.Call(Op.get(attrs.name), list(arguments), make_node("ir.DictAttrs", **attrs.to_dict()))


def describe(expr: relax.Expr) -> Operator | None:
    """Return the description of a call of one of our operators; None for any other expression."""
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, Op) or expr.op.name not in _known:
        return None
    values = {} if expr.attrs is None else {key: expr.attrs[key] for key in expr.attrs.keys()}  # noqa: SIM118 - DictAttrs has no iterator
    return _known[expr.op.name].from_dict(values)


def _infer(call: relax.Call, _builder: Any) -> relax.TensorType:
    attrs = describe(call)
    if attrs is None:
        raise ValueError(f"{call.op} isn't one of our operators")
    return to_relax_type(attrs.infer(*(tensor_type(a) for a in call.args)))


def register(operators: Mapping[str, type[Operator]]) -> None:
    """Make operators known to Relax and to `describe`, by name."""
    for name, cls in operators.items():
        summary = (cls.__doc__ or name).splitlines()[0]
        _ir.RegisterOp(name, summary)
        op = Op.get(name)
        op.set_attr("FPurity", True)
        op.set_attr("FInferType", _infer)
    _known.update(operators)
