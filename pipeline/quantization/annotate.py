"""Annotate: decide for every operator and tensor of a float program whether it becomes int8, and say why."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass

from tvm import relax

from pipeline.config.options import AnnotateOptions
from pipeline.ir.bridge import tensor_operands, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.program import Program
from pipeline.ops import traits_of
from pipeline.quantization.annotation import Annotation, OperatorDecision, TensorDecision
from pipeline.quantization.annotation_rules import Role, activations, kind_of, rule_for, unknown_operator_reason
from pipeline.quantization.selection import select

__all__ = ["AnnotateOptions", "Annotation", "OperatorDecision", "TensorDecision", "annotate"]


def annotate(program: Program, options: AnnotateOptions | None = None) -> Annotation:
    """Decide what becomes int8; the program isn't changed.

    Convolutions and dense layers become int8 wherever their weights allow. Everything between them that has an integer
    form follows, if all that it reads is 8-bit and something that reads it is.

    Args:
        program: a float program, as `import_model` returns it.
        options: what the user wants.

    Raises:
        OptionError: an option names what none of the program's operators is; see `quantization.selection`.
    """
    options = options or AnnotateOptions()
    flow = Dataflow.of(program.module)
    refusals = _decide(flow, _Wanted.of(program, options))
    operators = [_operator(b, refusals.get(b.var), options) for b in flow.bindings]
    quantized = [b for b in flow.bindings if refusals.get(b.var) is None]
    return Annotation(operators=tuple(operators), tensors=_tensors(flow, quantized))


@dataclass(frozen=True)
class _Wanted:
    """The names of the operators that options mean; `operators` is None if all may become int8."""

    operators: Set[str] | None
    skip: Set[str]

    @classmethod
    def of(cls, program: Program, options: AnnotateOptions) -> _Wanted:
        operators = options.operators
        if operators is not None:
            operators = select(program, operators, "operators (--operator)", types_first=True)
        return cls(operators, select(program, options.skip, "the skip list (--skip)"))


def _decide(flow: Dataflow, wanted: _Wanted) -> dict[relax.Var, str | None]:
    """Return for each operator why it stays in float; None if it becomes int8."""
    refusals: dict[relax.Var, str | None] = {}
    for binding in flow.bindings:
        refusals[binding.var] = _refusal(binding, refusals, wanted)
    for binding in reversed(flow.bindings):
        rule = rule_for(binding)
        bridge = refusals[binding.var] is None and rule is not None and rule.role is not Role.COMPUTE
        if bridge and all(refusals[u.var] is not None for u in flow.users[binding.var]):
            refusals[binding.var] = "nothing that reads it is int8"
    return refusals


def _refusal(binding: Binding, earlier: dict[relax.Var, str | None], wanted: _Wanted) -> str | None:
    rule = rule_for(binding)
    if rule is None:
        return unknown_operator_reason(binding)
    if binding.var.name in wanted.skip:
        return "it is in the skip list"
    if wanted.operators is not None and binding.var.name not in wanted.operators:
        return "it isn't among the operators that are to be quantized"
    obstacle = rule.obstacle(binding)
    if obstacle is not None or rule.role is Role.COMPUTE:
        return obstacle
    for source in activations(binding):
        if source not in earlier or earlier[source] is not None:
            return f"its input {source.name!r} isn't 8-bit"
    return None


def _operator(binding: Binding, refusal: str | None, options: AnnotateOptions) -> OperatorDecision:
    rule = rule_for(binding)
    compute = rule is not None and rule.role is Role.COMPUTE
    weighted = compute and len(activations(binding)) == 1
    return OperatorDecision(
        name=binding.var.name,
        operator=kind_of(binding),
        precision="float32" if refusal is not None else "int8",
        per_channel=options.per_channel if weighted and refusal is None else None,
        reason=refusal or ("it does the work" if compute else "it stands between int8 operators"),
    )


def _tensors(flow: Dataflow, quantized: list[Binding]) -> tuple[TensorDecision, ...]:
    """Return a decision for every tensor that an int8 operator reads, or writes for one that reads it."""
    chosen = {b.var for b in quantized}
    read = {v for b in quantized for v in activations(b)}
    bounds: dict[relax.Var, float] = {}
    for binding in flow.bindings:
        if isinstance(binding.var.ty, relax.TensorType) and isinstance(binding.value, relax.Call):
            known = (bounds.get(o, -math.inf) for o in tensor_operands(binding.value))
            bounds[binding.var] = traits_of(binding).lower_bound(*known)
    order = [*flow.params, *(b.var for b in flow.bindings)]
    tensors = []
    for var in order:
        if var not in read or tensor_type(var).dtype != "float32":
            continue
        shares, reason = _shared(flow, var, chosen)
        signed = bounds.get(var, -math.inf) < 0
        reason = reason or ("it can be negative" if signed else "it can't be negative")
        tensors.append(TensorDecision(name=var.name, signed=signed, shares=shares, reason=reason))
    return tuple(tensors)


def _shared(flow: Dataflow, var: relax.Var, chosen: set[relax.Var]) -> tuple[str | None, str]:
    """Return whose scale a tensor takes and why; (None, "") if it has its own."""
    producer = flow.producers.get(var)
    if producer is not None and var in chosen:
        rule = rule_for(producer)
        if rule is not None and rule.role is Role.MOVEMENT:
            return activations(producer)[0].name, "it holds the same values"
    user = flow.only_user(var)
    if user is not None and user.operator == "relax.concat" and user.var in chosen and var in chosen:
        return user.var.name, "it is only a part of that tensor"
    return None, ""
