"""`qnn.hard_swish`.

for row of channels, in parallel:
    for vector of channels:
        apply the function in float32, and requantize
"""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.hard_swish import hard_swished, without_added
from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.loops import over_channels
from pipeline.kernels.lib.vectors import span
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import QHardSwish


def hard_swish(operation: Operation, machine: Machine) -> Kernel:
    """The function with constants for each channel."""
    isa, operator = machine.isa, operation.operator
    if not isinstance(operator, QHardSwish):
        raise TypeError(f"Expected qnn.hard_swish, got {operator}")
    channels, size = operation.output.shape[-1], operation.output.size
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "float32"))
        factor = T.arg("factor", T.buffer((channels,), "float32"))
        y = T.arg("y", T.buffer((size,), operation.output.dtype))
        with over_channels(size, channels, isa.saturate_vectors * isa.lanes) as (start, channel, width):
            at = span(start, width)
            values = hard_swished(x[at], factor[span(channel, width)], None, operator, isa)
            T.buffer_store(y, saturate(values, without_added(operator), isa), [at])
    return Kernel(builder.get(), (0, operation.constants[1]))
