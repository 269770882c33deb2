"""One engine for all passes: a walk over a program that writes it anew, and rules that say what to write instead.

A rule has a pattern, a check that returns the reason when it declines, and a rewrite (the model is the rewriter of
onnxscript). Patterns are expressions of operators, from the result to what it is made of:

    call(ops.Conv2d, call(ops.Pad, anything("x"), name="pad"), name="convolution")

is a convolution whose first operand was padded; operands behind those of a pattern may be anything. A name that stands
twice has to stand for the same tensor. Rules see what the operators before have become, so one walk fuses whole chains.
What nothing reads any more is removed at the end.

`relax.dpl`, TVM's own matcher, can't say what a constant has to be, in which order the operands of a sum are looked at,
or why something didn't match, and matches against the program as it was, not as it becomes.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy.typing as npt
import tvm
from tvm import relax
from tvm.ir import GenericConst

from pipeline.ir.bridge import describe, tensor_type
from pipeline.ir.dataflow import Binding, DataflowBuilder, constant, operator_name
from pipeline.ir.operator import Operator, operators
from pipeline.ir.types import TensorType

Array = npt.NDArray[Any]
Expected = TypeVar("Expected", bound=Operator)
Captures: TypeAlias = "Mapping[str, relax.Expr]"
"""What a pattern's names stand for."""

_log = logging.getLogger(__name__)


Visit: TypeAlias = "Callable[[Binding, DataflowBuilder], relax.Expr | None]"
"""Returns what a binding becomes: an expression of the new program, or None to leave the binding as it is."""


def rewrite_bindings(module: tvm.IRModule, visit: Visit) -> tvm.IRModule:
    """Return a program written anew: each binding, in order, as what `visit` makes of it, under its old name.

    Args:
        module: the program.
        visit: returns a binding's new expression. It may append others before it.
    """
    builder = DataflowBuilder(module)
    for binding in builder.flow.bindings:
        value = visit(binding, builder)
        if value is None:
            builder.copy(binding)
        elif isinstance(value, relax.Var | relax.Tuple | GenericConst):
            builder.replace(binding.var, value)
        else:
            builder.replace(binding.var, builder.emit(value, binding.var.name))
    return builder.finish()


class Pattern(ABC):
    """What an expression of the new program has to be; see `anything`, `constant_value`, `call` and `one_of`."""

    @abstractmethod
    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        """Yield each way in which an expression is of this pattern: `found`, and what the pattern's names stand for."""


@dataclass(frozen=True)
class _Anything(Pattern):
    name: str

    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        yield from _captured(self.name, expr, found)


@dataclass(frozen=True)
class _Constant(Pattern):
    name: str
    where: Callable[[Array], bool]

    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        value = constant(expr)
        if value is not None and self.where(value):
            yield from _captured(self.name, expr, found)


@dataclass(frozen=True)
class _Call(Pattern):
    names: frozenset[str]
    operands: tuple[Pattern, ...]
    name: str | None
    where: Callable[[relax.Call], bool]
    read_once: bool
    commutative: bool

    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        made = expr if isinstance(expr, relax.Call) else builder.call(expr)
        if made is None or operator_name(made) not in self.names or len(made.args) < len(self.operands):
            return
        if not self.where(made):
            return
        orders = itertools.permutations(made.args) if self.commutative else [tuple(made.args)]
        for arguments in orders:
            for captures in _Call._all(list(zip(self.operands, arguments, strict=False)), builder, found):
                yield from _captured(self.name, expr, captures)

    @staticmethod
    def _all(pairs: list[tuple[Pattern, relax.Expr]], builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        if not pairs:
            yield found
            return
        (pattern, argument), *rest = pairs
        for captures in pattern.matches(argument, builder, found):
            yield from _Call._all(rest, builder, captures)


@dataclass(frozen=True)
class _OneOf(Pattern):
    patterns: tuple[Pattern, ...]

    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        for pattern in self.patterns:
            yield from pattern.matches(expr, builder, found)


def _captured(name: str | None, expr: relax.Expr, found: Captures) -> Iterator[Captures]:
    """Yield `found` and what a name stands for, unless it stands for something else already."""
    if name is None:
        yield found
    elif name not in found:
        yield {**found, name: expr}
    elif found[name].same_as(expr):
        yield found


def anything(name: str) -> Pattern:
    """Return the pattern of every expression."""
    return _Anything(name)


def constant_value(name: str, where: Callable[[Array], bool] = lambda _: True) -> Pattern:
    """Return the pattern of constants; `where` says which values."""
    return _Constant(name, where)


OperatorName: TypeAlias = "str | type[Operator]"


def call(
    operator: OperatorName | Sequence[OperatorName],
    *operands: Pattern,
    name: str | None = None,
    where: Callable[[relax.Call], bool] = lambda _: True,
    read_once: bool = False,
    commutative: bool = False,
) -> Pattern:
    """Return the pattern of a call.

    Args:
        operator: a class of ours or the name of an operator of Relax, or several of them. A class without a name of its
            own stands for all that are derived from it, one with a name for itself alone.
        operands: patterns of the first operands.
        name: what the call is called in a `Match`.
        where: says which calls, by their attributes.
        read_once: decline where anybody else reads the result.
        commutative: whether the operands may come in any order.
    """
    wanted = [operator] if isinstance(operator, str | type) else operator
    names = frozenset(name for o in wanted for name in _names(o))
    pattern = _Call(names, operands, name, where, read_once, commutative)
    if read_once and name is None:
        raise ValueError("What may be read only once needs a name, for the reason why a rule declines")
    return pattern


def _names(operator: OperatorName) -> list[str]:
    if isinstance(operator, str):
        return [operator]
    if "name" in vars(operator):
        return [operator.name]
    return [known.name for known in operators().values() if issubclass(known, operator)]


def one_of(*patterns: Pattern) -> Pattern:
    """Return the pattern of whatever is of one of these patterns; the first that fits is taken first."""
    return _OneOf(patterns)


@dataclass(frozen=True)
class Match:
    """Where a rule's pattern was found.

    Attributes:
        binding: the binding of the old program whose value it is.
        builder: writes the new program.
        captures: what the pattern's names stand for, expressions of the new program.
    """

    binding: Binding
    builder: DataflowBuilder
    captures: Captures

    def __getitem__(self, name: str) -> relax.Expr:
        """Return the expression that a name stands for."""
        return self.captures[name]

    @property
    def result_type(self) -> TensorType:
        """The type of the result."""
        return tensor_type(self.binding.var)

    def call(self, name: str) -> relax.Call:
        """Return the call that a name stands for."""
        expr = self.captures[name]
        made = expr if isinstance(expr, relax.Call) else self.builder.call(expr)
        if made is None:
            raise TypeError(f"{name} isn't a call")
        return made

    def operator(self, name: str, expected: type[Expected]) -> Expected:
        """Return the operator of a call that a name stands for."""
        found = describe(self.call(name))
        if not isinstance(found, expected):
            raise TypeError(f"{name} isn't {expected.__name__}, but {found}")
        return found

    def value(self, name: str) -> Array:
        """Return the value of a constant that a name stands for."""
        found = constant(self.captures[name])
        if found is None:
            raise TypeError(f"{name} isn't constant")
        return found

    def emit(self, expr: relax.Expr, suffix: str) -> relax.Var:
        """Append a step on the way to the result, named for the result, and return its variable."""
        return self.builder.emit(expr, f"{self.binding.var.name}.{suffix}")


@dataclass(frozen=True)
class Declined:
    """A rule's pattern was found, but the rule left it alone.

    Attributes:
        rule: the rule's name.
        tensor: the tensor that the pattern computes.
        reason: why.
    """

    rule: str
    tensor: str
    reason: str


@dataclass(frozen=True)
class Rule:
    """What to write instead of a pattern.

    Attributes:
        name: a verb and its object, as `fuse_padding`.
        pattern: what to look for.
        rewrite: returns the expression that takes the pattern's place.
        check: returns why the rule declines; None if it doesn't.
    """

    name: str
    pattern: Pattern
    rewrite: Callable[[Match], relax.Expr]
    check: Callable[[Match], str | None] = lambda _: None

    def apply(self, binding: Binding, value: relax.Expr, builder: DataflowBuilder) -> relax.Expr | Declined | None:
        """Return what takes a binding's place, or why nothing does; None if it isn't of the pattern.

        Args:
            binding: of the old program.
            value: its value, with arguments of the new program.
            builder: writes the new program.
        """
        declined = None
        for captures in self.pattern.matches(value, builder, {}):
            match = Match(binding, builder, captures)
            reason = self._read_by_others(match) or self.check(match)
            if reason is None:
                return self.rewrite(match)
            declined = declined or Declined(self.name, binding.var.name, reason)
        return declined

    def _read_by_others(self, match: Match) -> str | None:
        for name in _names_read_once(self.pattern):
            expr = match.captures.get(name)
            if isinstance(expr, relax.Var) and not match.builder.read_once(expr):
                return f"others read {expr.name!r}, too"
        return None


def _names_read_once(pattern: Pattern) -> Iterator[str]:
    if isinstance(pattern, _Call):
        if pattern.read_once and pattern.name is not None:
            yield pattern.name
        for operand in pattern.operands:
            yield from _names_read_once(operand)
    elif isinstance(pattern, _OneOf):
        for alternative in pattern.patterns:
            yield from _names_read_once(alternative)


def rewrite(module: tvm.IRModule, *rules: Rule, declined: list[Declined] | None = None) -> tvm.IRModule:
    """Return a program with each binding as what the first rule that fits makes of it.

    Args:
        module: the program.
        rules: tried in order.
        declined: gets what rules have declined, and why; it is logged for debugging, too.
    """

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if not isinstance(binding.value, relax.Call):
            return None
        value = builder.replaced(binding.value)
        for rule in rules:
            result = rule.apply(binding, value, builder)
            if isinstance(result, Declined):
                _log.debug("%s: %s is left as it is: %s", *dataclasses.astuple(result))
                if declined is not None:
                    declined.append(result)
            elif result is not None:
                return result
        return value

    return rewrite_bindings(module, visit)
