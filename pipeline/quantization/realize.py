"""Realize: rewrite the annotated float program with integer operators, scales taken from the calibration table."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.errors import TableError
from pipeline.ir.bridge import describe, make_call
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, variables
from pipeline.ir.program import Program
from pipeline.quantization.annotate import Annotation, OperatorDecision
from pipeline.quantization.realization_rules import RULES, Context, NotRealizable, QParams
from pipeline.quantization.selection import with_names
from pipeline.quantization.table import CalibrationTable

__all__ = ["realize"]

_log = logging.getLogger(__name__)


def realize(program: Program, annotation: Annotation, table: CalibrationTable) -> tuple[Program, Annotation]:
    """Return the int8 program, and the annotation as it came out.

    Integers stand between one `qnn.quantize` and one `qnn.dequantize`; what can't be an integer operator with these
    scales (a sum that could exceed 32 bits) stays in float, and the returned annotation says so.

    Args:
        program: the float program.
        annotation: what becomes int8.
        table: scales and zero points, for every tensor that `annotation.calibrated()` names.

    Raises:
        TableError: annotation or table don't fit the program.
    """
    return _Realizer(program, with_names(annotation, program), table).run()


class _Realizer:
    """One walk over the float program. Each of its tensors exists as codes, as floats, or as both, made when needed."""

    def __init__(self, program: Program, annotation: Annotation, table: CalibrationTable) -> None:
        self.program = program
        self.flow = Dataflow.of(program.module)
        self.annotation = annotation
        self.chosen = {o.name: o for o in annotation.operators if o.precision == "int8"}
        self.params = _parameters(annotation, table)
        self.codes: dict[relax.Var, relax.Var] = {}
        self.refused: dict[str, str] = {}
        _check(self.flow, annotation)
        self.builder = DataflowBuilder(program.module)

    def run(self) -> tuple[Program, Annotation]:
        for binding in self.flow.bindings:
            if binding.var.name not in self.chosen or not self._quantized(binding):
                for v in variables(binding.value):
                    self._floats(v)
                self.builder.copy(binding)
        for output in self.flow.outputs:
            if isinstance(output, relax.Var):
                self._floats(output)
        module = self.builder.finish()
        return replace(self.program, module=module), self._outcome()

    def _quantized(self, binding: Binding) -> bool:
        """Write a binding with integers; False if its scales don't allow it."""
        wanted = self.params.get(binding.var.name)
        if ops.traits_of(binding).sums_products and not self._read_as_codes(binding.var):
            wanted = None
        context = Context(
            codes=self._as_codes,
            params=lambda v: self.params[v.name],
            emit=self.builder.emit,
            per_channel=bool(self.chosen[binding.var.name].per_channel),
            output=wanted,
        )
        try:
            value = RULES[binding.operator](binding, context)
        except NotRealizable as reason:
            _log.warning("%s stays in float: %s", binding.var.name, reason)
            self.refused[binding.var.name] = str(reason)
            return False
        result = self.builder.emit(value, binding.var.name)
        if wanted is None:
            self.builder.values[binding.var] = self._clipped(binding, result)
        else:
            self.codes[binding.var] = result
        return True

    def _read_as_codes(self, var: relax.Var) -> bool:
        return any(u.var.name in self.chosen for u in self.flow.users[var])

    def _clipped(self, binding: Binding, result: relax.Var) -> relax.Var:
        """Apply a fused activation to a float32 result."""
        attrs = describe(binding.value)
        if isinstance(attrs, ops.Clipped):
            if attrs.clip_min is not None:
                limit = relax.const(np.float32(attrs.clip_min))
                result = self.builder.emit(relax.op.maximum(result, limit), f"{binding.var.name}.clip_min")
            if attrs.clip_max is not None:
                limit = relax.const(np.float32(attrs.clip_max))
                result = self.builder.emit(relax.op.minimum(result, limit), f"{binding.var.name}.clip_max")
        return result

    def _as_codes(self, var: relax.Var) -> relax.Var:
        if var not in self.codes:
            params = self.params[var.name]
            attrs = ops.Quantize(inverse_scale=float(np.float32(1.0 / params.scale)), zero_point=params.zero_point)
            call = make_call(attrs, self.builder.replaced(var))
            self.codes[var] = self.builder.emit(call, f"{var.name}.quantized")
        return self.codes[var]

    def _floats(self, var: relax.Var) -> None:
        if var in self.codes and var not in self.builder.values and var not in self.flow.params:
            params = self.params[var.name]
            attrs = ops.Dequantize(scale=params.scale, zero_point=params.zero_point)
            call = make_call(attrs, self.codes[var])
            self.builder.values[var] = self.builder.emit(call, f"{var.name}.dequantized")

    def _outcome(self) -> Annotation:
        def updated(decision: OperatorDecision) -> OperatorDecision:
            reason = self.refused.get(decision.name)
            if reason is None:
                return decision
            return decision.model_copy(update={"precision": "float32", "per_channel": None, "reason": reason})

        return self.annotation.model_copy(update={"operators": tuple(updated(o) for o in self.annotation.operators)})


def _parameters(annotation: Annotation, table: CalibrationTable) -> dict[str, QParams]:
    """Return scale and zero point of every 8-bit tensor, shared ones included."""
    params = {}
    for tensor in annotation.tensors:
        source = annotation.source(tensor.name)
        entry = table.tensors.get(source)
        if entry is None:
            raise TableError(
                f"The calibration table has no entry for tensor {source!r}. "
                "Calibrate again with this model and annotation."
            )
        params[tensor.name] = QParams(entry.scale, entry.zero_point)
    return params


def _check(flow: Dataflow, annotation: Annotation) -> None:
    """Refuse an edited annotation that asks for what can't be done."""
    names = {b.var.name: b for b in flow.bindings}
    tensors = {t.name for t in annotation.tensors}
    for decision in annotation.operators:
        binding = names[decision.name]
        if decision.precision != "int8":
            continue
        if binding.operator not in RULES:
            raise TableError(f"Annotation: {decision.name!r} is int8, but {decision.operator} has no integer form.")
        for v in variables(binding.value):
            if v.name not in tensors:
                raise TableError(
                    f"Annotation: {decision.name!r} is int8 and reads {v.name!r}, which isn't among the 8-bit tensors."
                )
