"""Realize: rewrite the annotated float program with integer operators, scales taken from the calibration table."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
from msgspec.structs import replace
from tvm import relax

from pipeline import ops
from pipeline.errors import TableError
from pipeline.ir.bridge import make_call, operator_of
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder
from pipeline.ir.program import Program
from pipeline.ir.types import QuantizationParameters
from pipeline.process_state import one_at_a_time
from pipeline.quantization import channel_scales
from pipeline.quantization.annotate import Annotation, OperatorDecision
from pipeline.quantization.rules import Context, NotQuantizable, rule_for, stays_float
from pipeline.quantization.selection import with_names
from pipeline.quantization.spec import weight_spec
from pipeline.quantization.table import CalibrationTable

__all__ = ["realize"]

_log = logging.getLogger(__name__)


@one_at_a_time
def realize(
    program: Program, annotation: Annotation, table: CalibrationTable, warn: bool = True
) -> tuple[Program, Annotation]:
    """Return the int8 program, and the annotation that is true of it.

    Consecutive int8 operators pass quantized values to one another; a `qnn.quantize` stands before them and a
    `qnn.dequantize` behind them. An operator that can't be computed in integers with these scales, as a sum could
    exceed 32 bits, stays in float, and the returned annotation says so.

    Args:
        program: the float program.
        annotation: what becomes int8.
        table: scales and zero points, for every tensor that `annotation.calibrated()` names.
        warn: whether to log what stays in float.

    Raises:
        TableError: annotation or table don't fit the program.
    """
    realizer = _Realizer(program, with_names(annotation, program), table)
    result = realizer.run()
    if warn:
        for name, reason in realizer.left_in_float.items():
            _log.warning("%s stays in float: %s", name, reason)
    return result


class _Realizer:
    """One walk over the float program.

    Each of its tensors exists quantized, as float32, or as both, made when needed.
    """

    def __init__(self, program: Program, annotation: Annotation, table: CalibrationTable) -> None:
        self.program = program
        self.flow = Dataflow.of(program.module)
        self.annotation = annotation
        self.chosen = {o.name: o for o in annotation.operators if o.precision == "int8"}
        channel_scales.check(program, annotation, table)
        self.parameters = _parameters(annotation, table)
        self.quantized: dict[relax.Var, relax.Var] = {}
        self.both_bytes: dict[relax.Var, relax.Var] = {}
        self.left_in_float: dict[str, str] = {}
        _check(self.flow, annotation)
        self.builder = DataflowBuilder(program.module)

    def run(self) -> tuple[Program, Annotation]:
        for binding in self.flow.bindings:
            if binding.var.name not in self.chosen or not self._write(binding):
                for v in binding.reads:
                    self._make_float(v)
                self.builder.copy(binding)
        for output in self.flow.outputs:
            if isinstance(output, relax.Var):
                self._make_float(output)
        module = self.builder.finish()
        return dataclasses.replace(self.program, module=module), self._annotation_as_done()

    def _write(self, binding: Binding) -> bool:
        """Write a binding with integers; False if its scales don't allow it."""
        wanted = self.parameters.get(binding.var.name)
        if ops.traits_of(binding).sums_products and not self._read_quantized(binding.var):
            wanted = None
        context = Context(
            quantized=self._make_quantized,
            both_bytes=self._make_both_bytes,
            sums=lambda v: None if v.name in self.parameters else self.builder.replaced(v),
            parameters=lambda v: self.parameters[v.name],
            emit=self.builder.emit,
            name=str(binding.var.name),
            weights=self.chosen[binding.var.name].weights or weight_spec(per_channel=True),
            output=wanted,
        )
        rule = rule_for(binding)
        if rule is None:
            raise TypeError(f"{binding.operator} has no quantization rule")
        try:
            value = rule.write(binding, context)
        except NotQuantizable as reason:
            self.left_in_float[binding.var.name] = str(reason)
            return False
        result = self.builder.emit(value, binding.var.name)
        if wanted is None:
            self.builder.values[binding.var] = self._clipped(binding, result)
        else:
            self.quantized[binding.var] = result
        return True

    def _read_quantized(self, var: relax.Var) -> bool:
        return any(u.var.name in self.chosen for u in self.flow.users[var])

    def _clipped(self, binding: Binding, result: relax.Var) -> relax.Var:
        """Apply a fused activation to a float32 result."""
        operator = operator_of(binding.value)
        if isinstance(operator, ops.Clipped):
            if operator.clip_min is not None:
                limit = relax.const(np.float32(operator.clip_min))
                result = self.builder.emit(relax.op.maximum(result, limit), f"{binding.var.name}.clip_min")
            if operator.clip_max is not None:
                limit = relax.const(np.float32(operator.clip_max))
                result = self.builder.emit(relax.op.minimum(result, limit), f"{binding.var.name}.clip_max")
        return result

    def _make_quantized(self, var: relax.Var) -> relax.Var:
        if var not in self.quantized:
            parameters = self.parameters[var.name]
            value = channel_scales.multiplied(
                self.builder, self.builder.replaced(var), parameters.factors, str(var.name)
            )
            call = make_call(ops.Quantize.of(parameters), value)
            self.quantized[var] = self.builder.emit(call, f"{var.name}.quantized")
        return self.quantized[var]

    def _make_both_bytes(self, var: relax.Var) -> relax.Var:
        if var not in self.both_bytes:
            call = make_call(ops.SplitBytes(), self._make_quantized(var))
            self.both_bytes[var] = self.builder.emit(call, f"{var.name}.bytes")
        return self.both_bytes[var]

    def _make_float(self, var: relax.Var) -> None:
        if var in self.quantized and var not in self.builder.values and var not in self.flow.params:
            parameters = self.parameters[var.name]
            operator = ops.Dequantize(scale=parameters.scale, zero_point=parameters.zero_point)
            real = self.builder.emit(make_call(operator, self.quantized[var]), f"{var.name}.dequantized")
            self.builder.values[var] = channel_scales.multiplied(
                self.builder, real, 1 / parameters.factors, str(var.name)
            )

    def _annotation_as_done(self) -> Annotation:
        def updated(decision: OperatorDecision) -> OperatorDecision:
            reason = self.left_in_float.get(decision.name)
            if reason is None:
                return decision
            return replace(decision, precision="float32", weights=None, reason=reason)

        return replace(self.annotation, operators=tuple(updated(o) for o in self.annotation.operators))


def _parameters(annotation: Annotation, table: CalibrationTable) -> dict[str, QuantizationParameters]:
    """Return scale and zero point of every quantized tensor, shared ones included."""
    annotation.check_supported()
    dtypes = {t.name: t.spec.dtype for t in annotation.tensors if t.spec is not None}
    parameters = {}
    for tensor in annotation.tensors:
        source = annotation.source(tensor.name)
        entry = table.tensors.get(source)
        if entry is None:
            raise TableError(
                f"The calibration table has no entry for tensor {source!r}. "
                "Calibrate again with this model and annotation."
            )
        if entry.dtype != dtypes[source]:
            raise TableError(
                f"The calibration table has tensor {source!r} in {entry.dtype}, the annotation in {dtypes[source]}. "
                "Calibrate again with this annotation, or give the options that the table was made with."
            )
        parameters[tensor.name] = entry.parameters
    return parameters


def _check(flow: Dataflow, annotation: Annotation) -> None:
    """Refuse an edited annotation that asks for what can't be done."""
    names = {b.var.name: b for b in flow.bindings}
    tensors = {t.name for t in annotation.tensors}
    chosen = {names[d.name].var for d in annotation.operators if d.precision == "int8"}
    for decision in annotation.operators:
        binding = names[decision.name]
        if decision.precision != "int8":
            continue
        if rule_for(binding) is None:
            raise TableError(f"Annotation: {decision.name!r} is int8, but {decision.operator} has no integer form.")
        for v in binding.reads:
            if v.name not in tensors and not stays_float(flow, v, chosen):
                raise TableError(
                    f"Annotation: {decision.name!r} is int8 and reads {v.name!r}, which isn't among the 8-bit tensors."
                )
