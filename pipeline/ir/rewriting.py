"""The engine of all passes: it visits a program's bindings in order and writes a new program, often by rules.

A `Rule` has a pattern, a check that returns a reason if the rule must not be applied, and a rewrite. The design follows
`onnxscript.rewriter`. A pattern is written from the result to its operands:

    call(ops.Conv2d, call(ops.Pad, anything("x"), name="pad"), name="convolution")

matches a convolution whose first operand is padded. Operands after those in the pattern may be anything. A name that
occurs twice in a pattern must match the same tensor both times. Patterns are matched against the new program, so that a
rule sees what was rewritten before, and one visit fuses a whole chain. Dead code is removed at the end.

TVM's own matcher, `relax.dpl`, isn't used: it can't restrict the values of constants, fix the order in which the
operands of a sum are tried, or say why something didn't match, and it matches against the old program.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy.typing as npt
import tvm
from tvm import relax
from tvm.ir import GenericConst

from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, operator_name
from pipeline.ir.operator import Operator, operators
from pipeline.ir.types import TensorType

Array = npt.NDArray[Any]
Expected = TypeVar("Expected", bound=Operator)
Captures: TypeAlias = "Mapping[str, relax.Expr]"
"""The expression that each name of a pattern matched."""

_log = logging.getLogger(__name__)


Visit: TypeAlias = "Callable[[Binding, DataflowBuilder], relax.Expr | None]"
"""Returns the new expression for a binding of the old program; None copies the binding."""


def rewrite_bindings(module: tvm.IRModule, visit: Visit) -> tvm.IRModule:
    """Return the program with each binding replaced, in order, by what `visit` returns for it; names are kept.

    Args:
        module: the program.
        visit: returns the new expression for a binding. It may append more bindings to the builder first.
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
    """A pattern of expressions, made by `anything`, `constant_value`, `call` or `one_of`."""

    @abstractmethod
    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        """Yield the captures of each way in which an expression matches.

        Args:
            expr: an expression of the new program.
            builder: writes the new program.
            found: what names have matched so far; each result contains it.
        """

    @abstractmethod
    def may_match(self, operators: AbstractSet[str]) -> bool:
        """Return whether anything in a program can match that has no other operators than these."""


@dataclass(frozen=True)
class _Anything(Pattern):
    name: str

    def may_match(self, operators: AbstractSet[str]) -> bool:
        return True

    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        yield from _captured(self.name, expr, found)


@dataclass(frozen=True)
class _Constant(Pattern):
    name: str
    where: Callable[[Array], bool]

    def may_match(self, operators: AbstractSet[str]) -> bool:
        return True

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

    def may_match(self, operators: AbstractSet[str]) -> bool:
        return not self.names.isdisjoint(operators) and all(o.may_match(operators) for o in self.operands)

    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        made = expr if isinstance(expr, relax.Call) else builder.producing_call(expr)
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

    def may_match(self, operators: AbstractSet[str]) -> bool:
        return any(pattern.may_match(operators) for pattern in self.patterns)

    def matches(self, expr: relax.Expr, builder: DataflowBuilder, found: Captures) -> Iterator[Captures]:
        for pattern in self.patterns:
            yield from pattern.matches(expr, builder, found)


def _captured(name: str | None, expr: relax.Expr, found: Captures) -> Iterator[Captures]:
    """Yield `found` with `name` matched to `expr`; nothing if the name has matched another expression before."""
    if name is None:
        yield found
    elif name not in found:
        yield {**found, name: expr}
    elif found[name].same_as(expr):
        yield found


def anything(name: str) -> Pattern:
    """Return a pattern that any expression matches."""
    return _Anything(name)


def constant_value(name: str, where: Callable[[Array], bool] = lambda _: True) -> Pattern:
    """Return a pattern that constants match whose values `where` accepts."""
    return _Constant(name, where)


OperatorName: TypeAlias = "str | type[Operator]"
"""A name, such as `relax.add`, or a class; a class without a `name` of its own stands for all its subclasses."""


def call(
    operator: OperatorName | Sequence[OperatorName],
    *operands: Pattern,
    name: str | None = None,
    where: Callable[[relax.Call], bool] = lambda _: True,
    read_once: bool = False,
    commutative: bool = False,
) -> Pattern:
    """Return a pattern of calls.

    Args:
        operator: which operator is called, or several of which one is.
        operands: patterns of the first operands; more operands may follow.
        name: the call's name in a `Match`.
        where: returns whether a call matches, for example by its attributes.
        read_once: the rule declines if the result has other uses, too. The call needs a `name` then.
        commutative: the operands are tried in every order.

    Raises:
        ValueError: `read_once` is set, and there is no name.
    """
    wanted = [operator] if isinstance(operator, str | type) else operator
    names = frozenset(name for o in wanted for name in _names(o))
    pattern = _Call(names, operands, name, where, read_once, commutative)
    if read_once and name is None:
        raise ValueError("A pattern with read_once needs a name, by which the reason for declining refers to it")
    return pattern


def _names(operator: OperatorName) -> list[str]:
    if isinstance(operator, str):
        return [operator]
    if "name" in vars(operator):
        return [operator.name]
    return [known.name for known in operators().values() if issubclass(known, operator)]


def one_of(*patterns: Pattern) -> Pattern:
    """Return a pattern of the expressions that match one of these patterns, which are tried in order."""
    return _OneOf(patterns)


@dataclass(frozen=True)
class Match:
    """A place where a rule's pattern matches.

    Attributes:
        binding: the binding of the old program whose value matches.
        builder: writes the new program.
        captures: expressions of the new program by the names of the pattern.
    """

    binding: Binding
    builder: DataflowBuilder
    captures: Captures

    def __getitem__(self, name: str) -> relax.Expr:
        """Return the expression that a name of the pattern matched."""
        return self.captures[name]

    @property
    def result_type(self) -> TensorType:
        """Type of the binding's variable."""
        return tensor_type(self.binding.var)

    def call(self, name: str) -> relax.Call:
        """Return the call that a name matched.

        Raises:
            TypeError: it isn't a call.
        """
        expr = self.captures[name]
        made = expr if isinstance(expr, relax.Call) else self.builder.producing_call(expr)
        if made is None:
            raise TypeError(f"{name} isn't a call")
        return made

    def operator(self, name: str, expected: type[Expected]) -> Expected:
        """Return the operator of the call that a name matched.

        Raises:
            TypeError: it isn't a call of an `expected` operator.
        """
        found = operator_of(self.call(name))
        if not isinstance(found, expected):
            raise TypeError(f"{name} isn't {expected.__name__}, but {found}")
        return found

    def value(self, name: str) -> Array:
        """Return the value of the constant that a name matched.

        Raises:
            TypeError: it isn't a constant.
        """
        found = constant(self.captures[name])
        if found is None:
            raise TypeError(f"{name} isn't constant")
        return found

    def emit(self, expr: relax.Expr, suffix: str) -> relax.Var:
        """Append a binding that the result is computed from, named `RESULT.SUFFIX`, and return its variable."""
        return self.builder.emit(expr, f"{self.binding.var.name}.{suffix}")


@dataclass(frozen=True)
class Declined:
    """A match that a rule didn't rewrite.

    Attributes:
        rule: the rule's name.
        tensor: name of the tensor that the matching expression computes.
        reason: why the rule declined, for people.
    """

    rule: str
    tensor: str
    reason: str


@dataclass(frozen=True)
class Rule:
    """A rewriting rule.

    Attributes:
        name: a verb and its object, as `fuse_padding`.
        pattern: the expressions that the rule is for.
        rewrite: returns the expression that replaces a match.
        check: returns the reason if a match must not be rewritten, otherwise None.
    """

    name: str
    pattern: Pattern
    rewrite: Callable[[Match], relax.Expr]
    check: Callable[[Match], str | None] = lambda _: None

    def apply(self, binding: Binding, value: relax.Expr, builder: DataflowBuilder) -> relax.Expr | Declined | None:
        """Return the expression that replaces a binding's value, or the reason why none does; None without a match.

        Args:
            binding: a binding of the old program.
            value: its value, with the arguments that the new program has for it.
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
            if isinstance(expr, relax.Var) and not match.builder.is_read_once(expr):
                return f"{expr.name!r} is also read elsewhere, or is an output"
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
    """Return the program with each binding rewritten by the first rule that matches it and doesn't decline.

    Args:
        module: the program.
        rules: the rules, tried in order.
        declined: a list to which matches are appended that rules declined; they are also logged at level DEBUG.
    """
    # Most rules are for operators that most programs don't have.
    found = {binding.operator for binding in Dataflow.of(module).bindings}
    if not any(rule.pattern.may_match(found) for rule in rules):
        return module

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
        return None

    return rewrite_bindings(module, visit)
