"""`qnn.quantize` and `qnn.dequantize`: one tensor, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import lanes_of, span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.ops.elementwise import centred
from pipeline.ops import Dequantize, Quantize, Requantized


def quantize(operation: Operation, machine: Machine) -> Kernel:
    """Quantize float32 to uint8 or int16."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, Quantize):
        raise TypeError(f"Expected qnn.quantize, got {operator}")
    return _unary(operation, 4 * isa.lanes, lambda x: quantized(x, operator, isa))


def quantized(x: Any, operator: Quantize, isa: InstructionSet) -> Any:
    """Return the quantized values of a float32 TIR expression."""
    bounds = Requantized(operator.zero_point, *operator.limits, operator.output_dtype)
    return saturate(isa.rounded(clamped(x, operator)), bounds, isa)


def clamped(x: Any, operator: Quantize) -> Any:
    """Return the scaled float32 values whose rounding, plus the zero point, is the quantized one.

    The clamp is two comparisons, so that NaN comes out the same on every CPU. It comes before the rounding, which
    changes nothing, as its limits are integers, and lets one instruction round and convert.
    """
    lanes = lanes_of(x)
    low, high = (splat(T.float32(v - operator.zero_point), lanes) for v in operator.limits)
    v = x * splat(T.float32(operator.inverse_scale), lanes)
    v = T.Select(v < high, v, high)
    return T.Select(v > low, v, low)


def dequantize(operation: Operation, machine: Machine) -> Kernel:
    """Convert uint8 or int16 to float32."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, Dequantize):
        raise TypeError(f"Expected qnn.dequantize, got {operator}")

    def convert(x: Any) -> Any:
        lanes = lanes_of(x)
        value = T.cast(centred(x, operator.zero_point), vector_type("float32", lanes))
        return value * splat(T.float32(float(np.float32(operator.scale))), lanes)

    return _unary(operation, 4 * isa.lanes, convert)


def _unary(operation: Operation, width: int, convert: Callable[[Any], Any]) -> Kernel:
    """Return the loop over one operand; `convert` gets vectors."""
    source, target = operation.inputs[0], operation.output
    run = Run.of(target.size, width, MAX_TASKS)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), source.dtype))
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        with loop_for(target.size, run.tasks)(run.tasks) as task, T.serial(run.steps) as step:
            place = span(run.start(task, step), run.width)
            T.buffer_store(y, convert(x[place]), [place])
    return Kernel(builder.get(), (0,))
