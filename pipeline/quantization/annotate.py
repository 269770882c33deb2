"""Annotate: decide for every operator and tensor of a float program whether it becomes int8, and say why."""

from __future__ import annotations

import logging
import math
from collections.abc import Set
from dataclasses import dataclass, replace

from tvm import relax

from pipeline import ops
from pipeline.config.options import AnnotateOptions
from pipeline.ir.bridge import operator_of, tensor_operands, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.program import Program
from pipeline.process_state import one_at_a_time
from pipeline.quantization.annotation import Annotation, OperatorDecision, TensorDecision
from pipeline.quantization.rules import (
    Role,
    activations,
    kind_of,
    operator_without_rule,
    role_of,
    rule_for,
    stays_float,
)
from pipeline.quantization.selection import absent_types, select
from pipeline.quantization.spec import QuantizationSpec, weight_spec
from pipeline.quantization.widening import LISTED, widened

__all__ = ["AnnotateOptions", "Annotation", "OperatorDecision", "TensorDecision", "annotate"]

OPERATORS = "operators (--operator)"
SKIP_LIST = "the skip list (--skip)"
"""What messages call the option that leaves operators in float."""

_log = logging.getLogger(__name__)


@one_at_a_time
def annotate(program: Program, options: AnnotateOptions | None = None, warn: bool = True) -> Annotation:
    """Decide what becomes int8; the program isn't changed.

    Convolutions, dense layers and matrix products become int8 wherever they can. Any other operator with an integer
    form becomes int8 as well if all its inputs are 8-bit and an int8 operator reads its result.

    Args:
        program: a float program, as `import_model` returns it.
        options: what the user wants.
        warn: whether to log what can't be as it is wanted.

    Raises:
        OptionError: an option names an operator or tensor that the program doesn't have; see `quantization.selection`.
    """
    options = options or AnnotateOptions()
    flow = Dataflow.of(program.module)
    reasons = _reasons_for_float(flow, _Wanted.of(program, options))
    operators = [_operator(b, reasons[b.var], options) for b in flow.bindings]
    quantized = [b for b in flow.bindings if reasons[b.var] is None]
    if warn:
        _warn_of_absent_types(program, options)
        _warn_of_idle(program, flow, options)
    return widened(program, Annotation(operators=tuple(operators), tensors=_tensors(flow, quantized)), options, warn)


def _warn_of_absent_types(program: Program, options: AnnotateOptions) -> None:
    absent = absent_types(program, options.operators or ())
    if absent:
        _log.warning("%s: the model has no operator of these types: %s", OPERATORS, ", ".join(absent))


def _warn_of_idle(program: Program, flow: Dataflow, options: AnnotateOptions) -> None:
    """Warn of each word in the skip list that names only operators that are in float without it, too."""
    if not options.skip:
        return
    reasons = _reasons_for_float(flow, _Wanted.of(program, replace(options, skip=())))
    for word in options.skip:
        named = select(program, [word], SKIP_LIST)
        why = [f"{v.name}: {reason}" for v, reason in reasons.items() if v.name in named and reason is not None]
        if len(why) == len(named):
            more = f"; and {len(why) - LISTED} more" if len(why) > LISTED else ""
            what = "what it names stays in float without it"
            _log.warning(
                "--keep-float (--skip) %s has no effect, as %s: %s%s", word, what, "; ".join(why[:LISTED]), more
            )


@dataclass(frozen=True)
class _Wanted:
    """Names of the operators that may become int8 (None if all may), and of those that are to stay in float."""

    operators: Set[str] | None
    skip: Set[str]

    @classmethod
    def of(cls, program: Program, options: AnnotateOptions) -> _Wanted:
        operators = options.operators
        if operators is not None:
            operators = select(program, operators, OPERATORS, types_first=True)
        return cls(operators, select(program, options.skip, SKIP_LIST))


def _reasons_for_float(flow: Dataflow, wanted: _Wanted) -> dict[relax.Var, str | None]:
    """Return for each operator the reason why it stays in float; None if it becomes int8."""
    reasons: dict[relax.Var, str | None] = {}
    for binding in flow.bindings:
        reasons[binding.var] = _reason_for_float(binding, reasons, wanted)
    for binding in reversed(flow.bindings):
        follows = reasons[binding.var] is None and role_of(binding) is not Role.COMPUTE
        if follows and all(reasons[u.var] is not None for u in flow.users[binding.var]):
            reasons[binding.var] = "nothing that reads it is int8"
    return reasons


def _reason_for_float(binding: Binding, earlier: dict[relax.Var, str | None], wanted: _Wanted) -> str | None:
    """Return why an operator can't be int8, whatever reads it; None if it can."""
    rule = rule_for(binding)
    if rule is None:
        return operator_without_rule(binding)
    if binding.var.name in wanted.skip:
        return "it is in the skip list"
    if wanted.operators is not None and binding.var.name not in wanted.operators:
        return "it isn't among the operators that are to be quantized"
    reason = rule.reason_for_float(binding)
    if reason is not None or role_of(binding) is Role.COMPUTE:
        return reason
    for source in activations(binding):
        if source not in earlier or earlier[source] is not None:
            return f"its input {source.name!r} isn't 8-bit"
    return None


REASONS = {
    Role.COMPUTE: "its sums of products are much faster in int8",
    Role.FOLLOW: "its inputs are int8 anyway, and int8 operators read its result",
    Role.MOVE: "its inputs are int8 anyway, and int8 operators read its result",
}
"""Why an operator becomes int8."""


def _operator(binding: Binding, reason_for_float: str | None, options: AnnotateOptions) -> OperatorDecision:
    operator = operator_of(binding.value)
    weighted = reason_for_float is None and isinstance(operator, ops.Linear)
    bits = options.weight_bits if isinstance(operator, ops.Dense) else 8
    return OperatorDecision(
        name=str(binding.var.name),
        operator=kind_of(binding),
        precision="int8" if reason_for_float is None else "float32",
        weights=weight_spec(options.per_channel, options.weight_algorithm, bits) if weighted else None,
        reason=reason_for_float or REASONS[role_of(binding)],
    )


def _tensors(flow: Dataflow, quantized: list[Binding]) -> tuple[TensorDecision, ...]:
    """Return a decision for every float32 tensor that an int8 operator reads: these become 8-bit."""
    chosen = {b.var for b in quantized}
    read = {v for b in quantized for v in activations(b)}
    bounds: dict[relax.Var, float] = {}
    for binding in flow.bindings:
        if isinstance(binding.var.ty, relax.TensorType) and isinstance(binding.value, relax.Call):
            known = (bounds.get(o, -math.inf) for o in tensor_operands(binding.value))
            bounds[binding.var] = ops.traits_of(binding).lower_bound(*known)
    order = [*flow.params, *(b.var for b in flow.bindings)]
    tensors = []
    for var in order:
        if var not in read or tensor_type(var).dtype != "float32" or stays_float(flow, var, chosen):
            continue
        shares, reason = _shared(flow, var, chosen)
        if shares is not None:
            tensors.append(TensorDecision(name=str(var.name), shares=shares, reason=reason))
            continue
        signed = bounds.get(var, -math.inf) < 0
        reason = "it can be negative" if signed else "it can't be negative"
        tensors.append(TensorDecision(name=str(var.name), spec=QuantizationSpec(signed=signed), reason=reason))
    return tuple(tensors)


def _shared(flow: Dataflow, var: relax.Var, chosen: set[relax.Var]) -> tuple[str | None, str]:
    """Return whose scale a tensor takes and why; (None, "") if it has its own."""
    producer = flow.producers.get(var)
    if producer is not None and var in chosen and role_of(producer) is Role.MOVE:
        return str(activations(producer)[0].name), "it holds the same values"
    user = flow.only_user(var)
    if user is not None and user.var in chosen and var in chosen:
        rule = rule_for(user)
        if rule is not None and rule.unifies_inputs:
            return str(user.var.name), "it is only a part of that tensor"
    return None, ""
