"""Which activations are quantized to 16 bits instead of 8: those that are wanted, where operators have a form for it.

Tensors that share a scale also share their dtype. A tensor gets 16 bits if the int8 operator that writes it, and all
that read it, have a form with 16 bits; the rules say which ones have.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Set

from msgspec.structs import replace
from tvm import relax

from pipeline.config.options import AnnotateOptions
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation, TensorDecision
from pipeline.quantization.rules import activations, kind_of, rule_for, stays_float
from pipeline.quantization.selection import select_tensors
from pipeline.quantization.spec import INT16

KEEP_16 = "the tensors to keep in 16 bits (--keep-16)"
"""What messages call the option."""

LISTED = 5
"""How many tensors a warning names."""

_log = logging.getLogger(__name__)


def widenable(program: Program, annotation: Annotation) -> dict[str, frozenset[str]]:
    """Return the 8-bit tensors that could have 16 bits, each by itself, with all tensors that share its scale."""
    groups = _groups(annotation)
    specs = {name: tensor.spec for name in groups if (tensor := annotation.tensor(name)) is not None}
    narrow = [name for name, spec in specs.items() if spec is not None and spec.dtype != INT16.dtype]
    return {n: frozenset(groups[n]) for n in narrow if not _refused(program, annotation, {n: groups[n]})}


def widened(program: Program, annotation: Annotation, options: AnnotateOptions, warn: bool = True) -> Annotation:
    """Return an annotation with 16 bits for the tensors that options want in them; reasons say why where they aren't.

    Args:
        program: the float program.
        annotation: what becomes int8, with activations of 8 bits.
        options: what the user wants.
        warn: whether to log what stays in 8 bits.

    Raises:
        OptionError: an option names a tensor that the program doesn't have.
    """
    named = select_tensors(program, options.keep_16, KEEP_16)
    groups = _groups(annotation)
    wanted = {s: g for s, g in groups.items() if options.activation_bits > 8 or not named.isdisjoint(g)}
    if warn:
        _warn_of_idle(program, annotation, options.keep_16)
    if not wanted:
        return annotation
    refused = _refused(program, annotation, wanted)
    if refused and warn:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:LISTED])
        more = f"; and {len(refused) - LISTED} more, see the annotation" if len(refused) > LISTED else ""
        _log.warning("Tensors that stay in 8 bits, although 16 are wanted: %s%s", first, more)

    def decided(tensor: TensorDecision) -> TensorDecision:
        if tensor.name not in wanted:
            return tensor
        if tensor.name in refused:
            return replace(tensor, reason=f"{tensor.reason}; it stays in 8 bits, as {refused[tensor.name]}")
        return replace(tensor, spec=INT16, reason="it is wanted in 16 bits")

    return replace(annotation, tensors=tuple(decided(t) for t in annotation.tensors))


def wide_tensors(annotation: Annotation) -> frozenset[str]:
    """Return the names of all tensors that have 16 bits, those included that share such a tensor's scale."""
    specs = {tensor.name: tensor.spec for tensor in annotation.calibrated()}
    wide = {name for name, spec in specs.items() if spec is not None and spec.dtype == INT16.dtype}
    return frozenset(t.name for t in annotation.tensors if annotation.source(t.name) in wide)


def _warn_of_idle(program: Program, annotation: Annotation, words: Collection[str]) -> None:
    """Warn of each word that names only tensors that aren't quantized, to any number of bits."""
    quantized = {tensor.name for tensor in annotation.tensors}
    int8 = {o.name for o in annotation.operators if o.precision == "int8"}
    flow = Dataflow.of(program.module)
    chosen = {b.var for b in flow.bindings if b.var.name in int8}
    for word in words:
        named = select_tensors(program, [word], KEEP_16)
        if not quantized.isdisjoint(named):
            continue
        variables = [v for v in (*flow.params, *(b.var for b in flow.bindings)) if v.name in named]
        why = [_reason_for_none(flow, v, chosen) for v in variables]
        more = f"; and {len(why) - LISTED} more" if len(why) > LISTED else ""
        _log.warning("--keep-16 %s has no effect: %s%s", word, "; ".join(why[:LISTED]), more)


def _reason_for_none(flow: Dataflow, var: relax.Var, chosen: Set[relax.Var]) -> str:
    """Return why a tensor isn't quantized, and what can be in its place."""
    if not stays_float(flow, var, chosen):
        return f"{var.name!r} stays in float, as no int8 operator reads it"
    (reader,), read = flow.users[var], activations(flow.producers[var])[0]
    return (
        f"{var.name!r} is a layer's sums in float32, which the hard-swish {reader.var.name!r} reads before anything is "
        f"rounded; keep {reader.var.name!r}, or what the layer reads, {read.name!r}, in its place"
    )


def _groups(annotation: Annotation) -> dict[str, set[str]]:
    """Return the tensors that share a scale, by the one whose scale it is."""
    groups: dict[str, set[str]] = {}
    for tensor in annotation.tensors:
        groups.setdefault(annotation.source(tensor.name), set()).add(tensor.name)
    return groups


def _refused(program: Program, annotation: Annotation, wanted: Mapping[str, Set[str]]) -> dict[str, str]:
    """Return the tensors that can't have 16 bits, by the one whose scale they share, and why.

    Of two inputs of an operator that takes 16 bits in one only, it is the later tensor.
    """
    flow = Dataflow.of(program.module)
    quantized = {o.name for o in annotation.operators if o.precision == "int8"}
    written = {str(b.var.name): b for b in flow.bindings if b.var.name in quantized}
    accepted: set[str] = set()
    refused = {}
    for source, group in wanted.items():
        writers = [written[name] for name in sorted(group) if name in written]
        readers = [b for b in written.values() if any(v.name in group for v in activations(b))]
        reason = _reason_against(writers, readers, accepted | group)
        if reason is None:
            accepted |= group
        else:
            refused[source] = reason
    return refused


def _reason_against(writers: Collection[Binding], readers: Collection[Binding], wide: Set[str]) -> str | None:
    """Return why tensors can't have 16 bits, given all that would have them; None if they can."""
    for binding in writers:
        rule = rule_for(binding)
        if rule is None or not rule.output_of_16_bits:
            return f"{kind_of(binding)} {binding.var.name!r}, which writes it, has no form with 16 bits"
    for binding in readers:
        rule = rule_for(binding)
        if rule is None or not rule.inputs_of_16_bits:
            return f"{kind_of(binding)} {binding.var.name!r}, which reads it, has no form with 16 bits"
        if sum(v.name in wide for v in activations(binding)) > rule.inputs_of_16_bits:
            return f"{kind_of(binding)} {binding.var.name!r} takes 16 bits in {rule.inputs_of_16_bits:g} input only"
    return None
