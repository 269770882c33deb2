"""`nn.matmul` and `qnn.matmul`: kernels with the loop nest for products of two activations."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.matmul_nest import Arithmetic, MatMulNest
from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.vectors import with_other_sign
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import QMatMul


def floating(operation: Operation, machine: Machine) -> Kernel:
    """Multiply float32 matrices; the products of a sum are added in the order of the inner axis."""
    isa = machine.isa

    def same(values: Any) -> Any:
        return values

    dtype = "float32"
    arithmetic = Arithmetic(
        dtype, dtype, dtype, dtype, depth=1, activations=same, pack=same, dot=isa.multiply_add, finish=same
    )
    return Kernel(MatMulNest(operation, machine, arithmetic).build(), (0, 1))


def integer(operation: Operation, machine: Machine) -> Kernel:
    """Sum `isa.dot_depth` products with each `isa.dot`."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, QMatMul):
        raise TypeError(f"Expected qnn.matmul, got {operator}")
    wide = isa.weight_dtype != "int8"
    # 16 bits hold any difference of two values; 8 bits only those from the middle one.
    offset = operator.b_zero_point if wide else 128

    def pack(b: Any) -> Any:
        lanes = isa.lanes * isa.dot_depth
        if wide:
            return T.cast(b, f"int16x{lanes}") - T.broadcast(T.int16(offset), lanes)
        return with_other_sign(b)

    def finish(accumulators: Any) -> Any:
        scaled = T.cast(accumulators, f"float32x{isa.lanes}") * T.broadcast(T.float32(operator.multiplier), isa.lanes)
        return scaled if operator.output_dtype == "float32" else saturate(isa.rounded(scaled), operator, isa)

    zero_points = (operator.a_zero_point, operator.b_zero_point)
    types = ("uint8", isa.weight_dtype, "int32", operator.output_dtype)
    arithmetic = Arithmetic(
        *types,
        isa.dot_depth,
        isa.activations,
        pack,
        isa.dot,
        finish,
        offset,
        zero_points,
        isa.activation_dtype,
        isa.activation_offset,
    )
    return Kernel(MatMulNest(operation, machine, arithmetic).build(), (0, 1))
