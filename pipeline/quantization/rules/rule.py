"""What a quantization rule is, and the table of all rules.

A rule is for one operator. It gives the name that users have for the operator, the conditions under which it can't be
int8, and its integer form. Whether it becomes int8, and whether its result has a scale of its own, follows from the
operator's traits: see `Role`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, constant, operator_name
from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.spec import QuantizationSpec

T = TypeVar("T", bound=ops.Operator)


class Role(Enum):
    """When an operator becomes int8, and which scale its result has."""

    COMPUTE = "compute"
    """It sums products (a convolution, a matrix product), which is several times faster in int8. It becomes int8
    wherever it can, and its inputs are quantized for it."""
    FOLLOW = "follow"
    """Int8 makes it only a little faster, which isn't worth quantizing inputs for. It becomes int8 if all its inputs
    are 8-bit anyway and an int8 operator reads its result. The result has a scale of its own."""
    MOVE = "move"
    """As `FOLLOW`, but it only moves values (a reshape, padding, a maximum), so its result has its input's scale."""


class NotQuantizable(Exception):
    """With these scales an operator can't be computed in integers; the message says why."""


@dataclass(frozen=True)
class Context:
    """What the function that writes an operator with integers may use.

    Attributes:
        quantized: returns the uint8 or int16 variable that holds a float tensor.
        both_bytes: returns the variable that holds the bytes of a tensor of 16 bits, as `ops.SplitBytes` gives them.
        sums: returns the variable that holds a float tensor in float32, if an operator is to read it so, as
            `Annotation` has no 8-bit tensor of it; else None.
        parameters: returns the scale and zero point of an 8-bit tensor.
        emit: appends an expression under a name and returns its variable.
        name: the operator's, which names of what is emitted for it begin with.
        weights: how the operator's weights are quantized, if it has any.
        output: the result's scale and zero point; None if it is to be float32.
    """

    quantized: Callable[[relax.Var], relax.Var]
    both_bytes: Callable[[relax.Var], relax.Var]
    sums: Callable[[relax.Var], relax.Var | None]
    parameters: Callable[[relax.Var], QuantizationParameters]
    emit: Callable[[relax.Expr, str], relax.Var]
    name: str
    weights: QuantizationSpec
    output: QuantizationParameters | None

    def quantized_output(self) -> QuantizationParameters:
        """Return the result's scale and zero point.

        Raises:
            NotQuantizable: the result is to be float32, which the operator can't give.
        """
        if self.output is None:
            raise NotQuantizable("nothing that reads it is int8")
        return self.output


ANY = math.inf
"""A number of inputs of 16 bits: all, or any of them."""

Check = Callable[[Binding], "str | None"]
Write = Callable[[Binding, Context], relax.Expr]
W = TypeVar("W", bound=Write)


def always(_: Binding) -> None:
    """Let every binding pass a check."""


@dataclass(frozen=True)
class Rule:
    """How one operator is quantized.

    Attributes:
        kind: the operator's type, as users name it in options.
        check: returns why a binding of the operator can't be int8, whatever the scales are; None if it can.
        write: returns the expression that computes it with integers. Raises NotQuantizable if the scales don't allow
            it.
        subtypes: types that certain bindings have instead of `kind`, each with a function that says whether a binding
            is one of these.
        unifies_inputs: whether inputs that nothing else reads have the result's scale, so that they needn't be
            requantized.
        inputs_of_16_bits: how many of the inputs may have 16 bits.
        output_of_16_bits: whether the result may have 16 bits.
    """

    kind: str
    check: Check
    write: Write
    subtypes: Mapping[str, Callable[[Binding], bool]] = field(default_factory=dict)
    unifies_inputs: bool = False
    inputs_of_16_bits: float = 0
    output_of_16_bits: bool = False

    def kind_of(self, binding: Binding) -> str:
        """Return the type of one binding."""
        return next((kind for kind, fits in self.subtypes.items() if fits(binding)), self.kind)

    def reason_for_float(self, binding: Binding) -> str | None:
        """Return why a binding can't be int8, whatever the scales; None if it can."""
        dtype = tensor_type(binding.var).dtype
        return self.check(binding) or (None if dtype == "float32" else f"its result is {dtype}")


_rules: dict[str, Rule] = {}


def quantization_rule(
    *operators: str | type[ops.Operator],
    kind: str,
    check: Check = always,
    subtypes: Mapping[str, Callable[[Binding], bool]] | None = None,
    unifies_inputs: bool = False,
    inputs_of_16_bits: float = 0,
    output_of_16_bits: bool = False,
) -> Callable[[W], W]:
    """Return a decorator that registers a rule, with the decorated function as its `write`.

    Args:
        operators: the operators that the rule is for: ours by class, Relax's by name, e.g. `relax.reshape`.
        kind: see `Rule`.
        check: see `Rule`.
        subtypes: see `Rule`.
        unifies_inputs: see `Rule`.
        inputs_of_16_bits: see `Rule`.
        output_of_16_bits: see `Rule`.
    """

    def add(write: W) -> W:
        rule = Rule(kind, check, write, subtypes or {}, unifies_inputs, inputs_of_16_bits, output_of_16_bits)
        for operator in operators:
            name = operator if isinstance(operator, str) else operator.name
            if name in _rules:
                raise TypeError(f"{name} has two quantization rules")
            _rules[name] = rule
        return write

    return add


def rules() -> Mapping[str, Rule]:
    """Return all rules by the operator's name in programs."""
    return MappingProxyType(_rules)


def rule_for(binding: Binding) -> Rule | None:
    """Return the rule for a binding's operator; None if there is none, and it stays in float."""
    return _rules.get(binding.operator)


def kind_of(binding: Binding) -> str:
    """Return the type of a binding's operator, as options and reports name it."""
    rule = rule_for(binding)
    return rule.kind_of(binding) if rule is not None else str(binding.operator.removeprefix("relax."))


def kinds() -> tuple[str, ...]:
    """Return the types of operators that can become int8, as options name them, in alphabetical order."""
    return tuple(sorted({kind for rule in _rules.values() for kind in (rule.kind, *rule.subtypes)}))


def role_of(binding: Binding) -> Role:
    """Return a binding's role, which follows from its operator's traits."""
    traits = ops.traits_of(binding)
    return Role.COMPUTE if traits.sums_products else Role.MOVE if traits.moves_values else Role.FOLLOW


def operator_without_rule(binding: Binding) -> str:
    """Return the reason why an operator without a rule stays in float."""
    name = operator_name(binding.value).removeprefix("relax.")
    if name == "call_tir":
        name = binding.value.args[0].name_hint
    return f"there is no integer form of {name}"


def activations(binding: Binding) -> tuple[relax.Var, ...]:
    """Return the activation tensors that an operator reads."""
    value = binding.value
    if not isinstance(value, relax.Call):
        return ()
    fields = value.args[0].fields if value.args and isinstance(value.args[0], relax.Tuple) else value.args
    return tuple(a for a in fields if isinstance(a, relax.Var))


def description(binding: Binding, operator: type[T]) -> T:
    """Return the operator that a binding calls, one of ours.

    Raises:
        TypeError: it is another operator, so that a rule was registered for an operator that it can't handle.
    """
    found = operator_of(binding.value)
    if not isinstance(found, operator):
        raise TypeError(f"Expected {operator.name}, got {found}")
    return found


def constant_weights(binding: Binding) -> str | None:
    """Check that weights and bias, arguments 1 and 2, are constant and finite, and that int8 sums fit int32."""
    weight, bias = constant(binding.value.args[1]), constant(binding.value.args[2])
    if weight is None or bias is None:
        return "its weights aren't constant"
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        return "its weights hold NaN or infinity"
    return sums_fit(binding)


def sums_fit(binding: Binding) -> str | None:
    """Check that no sum of quantized values exceeds int32."""
    return ops.traits_of(binding).overflow_reason(*(tensor_type(a) for a in binding.value.args))


def no_constant(binding: Binding) -> str | None:
    """Check that all operands are activations."""
    first = binding.value.args[0]
    operands = first.fields if isinstance(first, relax.Tuple) else binding.value.args
    return None if all(isinstance(o, relax.Var) for o in operands) else "an operand is constant"
