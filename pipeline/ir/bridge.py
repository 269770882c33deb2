"""Conversion between Relax and this package: types, and calls of our operators."""

from __future__ import annotations

import functools
import threading
from typing import Any

from tvm import relax
from tvm.ir import Op
from tvm.tirx import IntImm

from pipeline.ir.operator import Operator, operators
from pipeline.ir.tvm_private.relax import dictionary_attributes, register_operator
from pipeline.ir.types import TensorType

MOST = 4096
"""Conversions that are remembered, those of the last objects: each is asked for by one pass after another."""

_relax_operators: dict[str, Op] = {}
_registering = threading.Lock()


class UnsupportedProgramError(ValueError):
    """A program has control flow, or tensors whose shapes aren't known, neither of which can be compiled here."""


class UnknownShapeError(UnsupportedProgramError):
    """A tensor's shape is known only when the program runs."""


def tensor_type(expr: relax.Expr) -> TensorType:
    """Return the static type of a Relax tensor expression.

    Raises:
        UnknownShapeError: the expression isn't a tensor, or one of its dimensions isn't known.
    """
    return from_relax_type(expr.ty)


def tensor_types(expr: relax.Expr) -> tuple[TensorType, ...]:
    """Return the static types of all tensors that an expression holds: one, or each field of a tuple.

    Raises:
        UnknownShapeError: see `tensor_type`.
    """
    types = expr.ty.fields if isinstance(expr.ty, relax.TupleType) else (expr.ty,)
    return tuple(from_relax_type(t) for t in types)


def from_relax_type(ty: Any) -> TensorType:
    """Return the static type that a Relax type describes.

    Raises:
        UnknownShapeError: see `tensor_type`.
    """
    return _converted(_Same(ty))


class _Same:
    """An object of TVM's as a key: equal if it is the same one, whatever its class takes for equal."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._address: int = value.__chandle__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._address == other._address

    def __hash__(self) -> int:
        return hash(self._address)


@functools.lru_cache(MOST)
def _converted(key: _Same) -> TensorType:
    ty = key.value
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


def make_call(operator: Operator, *arguments: relax.Expr) -> relax.Call:
    """Return a Relax call of one of our operators. Its type is inferred once a BlockBuilder normalizes the call.

    Raises:
        ValueError: the number of arguments is wrong.
    """
    if len(arguments) != operator.arity:
        raise ValueError(f"{operator.name} takes {operator.arguments}, got {len(arguments)} arguments")
    attributes = dictionary_attributes(operator.to_dict())
    return relax.Call(_registered(type(operator)), list(arguments), attributes)


def operator_of(expr: relax.Expr) -> Operator | None:
    """Return the operator that a call of one of our operators stands for, with its attributes; None for all else."""
    known = operators().get(expr.op.name) if isinstance(expr, relax.Call) and isinstance(expr.op, Op) else None
    if known is None:
        return None
    return known.from_dict({}) if expr.attrs is None else _with_attributes(known.name, _Same(expr.attrs))


@functools.lru_cache(MOST)
def _with_attributes(name: str, attributes: _Same) -> Operator:
    return operators()[name].from_dict(dict(attributes.value.items()))


def tensor_operands(expr: relax.Expr) -> tuple[relax.Expr, ...]:
    """Return the tensors that an expression reads, constants included, in order. Tuples are flattened.

    A variable that holds a tuple is one operand.
    """
    if isinstance(expr, relax.Call):
        return tuple(operand for a in expr.args for operand in tensor_operands(a))
    if isinstance(expr, relax.Tuple):
        return tuple(operand for f in expr.fields for operand in tensor_operands(f))
    return (expr,) if isinstance(expr.ty, relax.TensorType | relax.TupleType) else ()


def _registered(cls: type[Operator]) -> Op:
    """Return Relax's operator for a class of ours; the class is registered with Relax on its first call."""
    with _registering:
        if cls.name not in _relax_operators:
            summary = (cls.__doc__ or cls.name).splitlines()[0]
            _relax_operators[cls.name] = register_operator(cls.name, summary, _infer)
        return _relax_operators[cls.name]


def _infer(call: relax.Call, _builder: Any) -> relax.TensorType:
    operator = operator_of(call)
    if operator is None:
        raise ValueError(f"{call.op} isn't one of our operators")
    return to_relax_type(operator.infer(*(tensor_type(a) for a in call.args)))
