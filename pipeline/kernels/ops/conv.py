"""`nn.conv2d`, `qnn.conv2d`, `nn.dense` and `qnn.dense`: kernels with the loop nests of `gemm`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from pipeline.kernels.gemm.block_nest import BlockNest
from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.gemm.epilogue import MOST, Epilogue, activate, requantize
from pipeline.kernels.gemm.geometry import geometry_of
from pipeline.kernels.gemm.lane_nest import LaneNest
from pipeline.kernels.gemm.matrix_nest import make_matrix_function
from pipeline.kernels.gemm.matrix_plan import fits_matrices, make_matrix_plan
from pipeline.kernels.gemm.nest import Nest
from pipeline.kernels.gemm.packing import join_int4, pack_channels, pack_weights
from pipeline.kernels.gemm.pair_nest import make_pair_function
from pipeline.kernels.gemm.pair_plan import PairWorkload, make_pair_plan, make_pair_workload, pack_pairs
from pipeline.kernels.gemm.panel_nest import PanelNest
from pipeline.kernels.gemm.plan import (
    Plan,
    fits_blocks,
    make_block_plan,
    make_block_workload,
    make_plan,
    make_workload,
)
from pipeline.kernels.gemm.register_tile import FUNCTION, RESIDUAL, Ending, Workload
from pipeline.kernels.gemm.word_nest import WordNest, words_offset
from pipeline.kernels.isa.contract import Capability, InstructionSet
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import Conv2d, Conv2dAdd, Dense, QConv2dAdd, QConv2dHardSwish

Array = npt.NDArray[Any]


def integer_workload(operation: Operation, machine: Machine) -> Workload:
    """Return what the register tile of `integer` is chosen for."""
    pairs = _pair_workload(operation, machine)
    depth, dtype = _depth(operation, machine.isa)
    return pairs or make_workload(geometry_of(operation), machine, depth, dtype, ending=_ending(operation))


def block_workload(operation: Operation, machine: Machine) -> Workload:
    """Return what the register tile of `block_integer` is chosen for."""
    return make_block_workload(geometry_of(operation), machine, operation.inputs[0].dtype)


def float_workload(operation: Operation, machine: Machine) -> Workload:
    """Return what the register tile of `floating` is chosen for."""
    return make_workload(geometry_of(operation), machine, 1, "float32")


def integer_cycles(operation: Operation, machine: Machine) -> float:
    """Return about how many cycles the multiply-adds of `integer` take, two dot products of which start in each."""
    workload = make_workload(geometry_of(operation), machine, *_depth(operation, machine.isa))
    return _pixels(operation) * workload.vectors * workload.steps * machine.isa.dot_instructions / 2


def block_cycles(operation: Operation, machine: Machine) -> float:
    """Return the same of `block_integer`; all its instructions count, as these are what limits such CPUs."""
    g, blocks = geometry_of(operation), block_workload(operation, machine)
    return g.batch * g.out_height * blocks.cycles(blocks.choose()) / 2


def matrix_cycles(operation: Operation, machine: Machine) -> float:
    """Return the same of `matrix_integer`: matrix registers multiply a pixel's step in a cycle."""
    plan = make_matrix_plan(geometry_of(operation), machine)
    return _pixels(operation) * plan.vectors * plan.steps * plan.geometry.segments[0] * plan.geometry.segments[1]


def _pixels(operation: Operation) -> int:
    g = geometry_of(operation)
    return g.batch * g.out_height * g.out_width * g.groups


def _pair_workload(operation: Operation, machine: Machine) -> PairWorkload | None:
    """Return what a tile of pairs of bytes is chosen for, None if there is none; activations have to be unsigned."""
    if operation.inputs[0].dtype != "uint8" or operation.has_int4_weights:
        return None
    return make_pair_workload(geometry_of(operation), machine, operation.constants[1])


def integer(operation: Operation, machine: Machine) -> Kernel:
    """Sum `isa.dot_depth` products with each `isa.dot`, or four with each `isa.dot_bytes` where that's quicker.

    Of values of 16 bits, it is `isa.int16_depth` with each `isa.dot_int16`.
    """
    isa, geometry = machine.isa, geometry_of(operation)
    weight, stored = operation.constants[1], operation.inputs[0].dtype
    pairs = _pair_workload(operation, machine)
    if pairs is not None:
        pair_plan, pairing = make_pair_plan(geometry, machine, weight, pairs)
        packed, *others = pack_pairs(pair_plan, pairing, weight)
        return _with_constants(
            pair_plan,
            operation,
            packed,
            lambda epilogue: make_pair_function(pair_plan, epilogue),
            beside_weights=[each for each in others if each.size > 0],
        )
    depth, dtype = _depth(operation, isa)
    plan = _with_bits(make_plan(geometry, machine, depth, dtype, ending=_ending(operation)), operation)
    in_order = stored == "int16" or operation.has_int4_weights
    weight_dtype = "int8" if in_order else isa.weight_dtype
    packed = pack_weights(plan, weight.astype(weight_dtype), in_order=in_order)
    return _with_constants(
        plan,
        operation,
        packed,
        lambda epilogue: _built(plan, (stored, weight_dtype, "int32"), epilogue),
    )


def _ending(operation: Operation) -> Ending | None:
    if isinstance(operation.operator, QConv2dHardSwish):
        return FUNCTION
    return RESIDUAL if isinstance(operation.operator, QConv2dAdd) else None


def _with_bits(plan: Plan, operation: Operation) -> Plan:
    """Return a plan that says in how many bits weights are stored."""
    return dataclasses.replace(plan, weight_bits=4) if operation.has_int4_weights else plan


def _depth(operation: Operation, isa: InstructionSet) -> tuple[int, str]:
    """Return how many values a step of the general nest takes in, and what tiles are chosen for."""
    return (isa.int16_depth, "int16") if operation.inputs[0].dtype == "int16" else (isa.dot_depth, "int8")


@functools.lru_cache(maxsize=MOST)
def _built(plan: Plan, dtypes: tuple[str, str, str], epilogue: Epilogue, *, in_blocks: bool = False) -> tirx.PrimFunc:
    # A model has equal layers, and is lowered several times, with other constants.
    lanes = LaneNest if plan.steps_per_load > 1 else Nest
    blocks = WordNest if dtypes[0] == "int16" else BlockNest
    return (PanelNest if plan.panels else blocks if in_blocks else lanes)(plan, dtypes, epilogue).build()


def fills_matrices(operation: Operation) -> bool:
    """Return whether a kernel with matrix registers is faster."""
    small = operation.has_int4_weights
    return operation.inputs[0].dtype == "uint8" and not small and fits_matrices(geometry_of(operation))


def matrix_integer(operation: Operation, machine: Machine) -> Kernel:
    """Multiply matrices of 16 pixels by 64 values with `isa.multiply`."""
    plan = make_matrix_plan(geometry_of(operation), machine)
    packed = pack_weights(plan, operation.constants[1])
    return _with_constants(
        plan, operation, packed, lambda epilogue: make_matrix_function(plan, epilogue), multipliers_are_kept=False
    )


def fills_blocks(operation: Operation) -> bool:
    """Return whether a kernel with products of blocks is faster."""
    return operation.inputs[0].dtype != "int16" and fits_blocks(geometry_of(operation))


def words_fill_blocks(operation: Operation) -> bool:
    """Return whether activations have 16 bits, and a kernel with products of blocks of their bytes is faster."""
    return operation.inputs[0].dtype == "int16" and fits_blocks(geometry_of(operation))


def lines_fill_blocks(operation: Operation, machine: Machine) -> bool:
    """Return whether a line of the output has as many pixels as a product of blocks."""
    return geometry_of(operation).flattened().out_width >= machine.isa.block_pixels


def block_integer(operation: Operation, machine: Machine) -> Kernel:
    """Multiply blocks of pixels and channels with `isa.multiply_block`."""
    plan = _with_bits(make_block_plan(geometry_of(operation), machine, operation.inputs[0].dtype), operation)
    packed = pack_weights(plan, operation.constants[1])
    stored = operation.inputs[0].dtype
    return _with_constants(
        plan,
        operation,
        packed,
        lambda epilogue: _built(plan, (stored, "int8", "int32"), epilogue, in_blocks=True),
        # Where several lanes hold a sum, joining them leaves LLVM no registers for what is added.
        as_floats=machine.isa.lanes == machine.isa.block_pixels * machine.isa.block_channels,
        words_offset=words_offset(machine.isa) if stored == "int16" else 0,
    )


def _with_constants(
    plan: Plan,
    operation: Operation,
    weights: Array,
    make: Callable[[Epilogue], tirx.PrimFunc],
    *,
    multipliers_are_kept: bool = True,
    as_floats: bool = True,
    beside_weights: Sequence[Array] = (),
    words_offset: int = 0,
) -> Kernel:
    """Return an integer kernel with its packed weights and what is beside them, and with its bias and multipliers.

    Activations of 16 bits are multiplied minus `words_offset`.
    """
    isa = plan.isa
    activation_offset = words_offset if operation.inputs[0].dtype == "int16" else isa.activation_offset
    constants = IntegerConstants.of(
        operation, as_floats=as_floats and isa.has(Capability.FUSED_MULTIPLY_ADD), activation_offset=activation_offset
    )
    if plan.weight_bits == 4:
        weights = join_int4(plan, weights)
    scales = constants.packed_scales(lambda own: pack_channels(plan, own, 0.0))
    starts = np.concatenate([pack_channels(plan, start, 0) for start in _starts(plan, constants, activation_offset)])
    packed = (weights, *beside_weights, starts, scales)
    added = (4,) if isinstance(operation.operator, QConv2dAdd) else ()
    loads_addends = _loads_addends(plan) and multipliers_are_kept
    epilogue = requantize(constants, isa, kept=multipliers_are_kept, loads_addends=loads_addends)
    return Kernel(make(epilogue), (0, *packed, *added))


def _loads_addends(plan: Plan) -> bool:
    """Return whether what is added to scaled accumulators is computed once a channel block, not for each tile."""
    if plan.isa.overwrites_addends:
        # One vector would be copied as quickly as it's loaded.
        return plan.tile.nv > 1
    g = plan.geometry
    return not plan.half and g.batch * g.out_height * g.out_width > plan.tile.mr


def _starts(plan: Plan, constants: IntegerConstants, activation_offset: int) -> list[Array]:
    """Return what accumulators begin with, for each number of the kernel's rows that may be left out."""
    if not plan.leaves_out:
        return [constants.start]
    padding = constants.operator.input_zero_point - activation_offset
    sums = [plan.left_out.sums(constants.weight, *counts) for counts in plan.left_out.counts]
    return [(constants.start + padding * s).astype("int32") for s in sums]


def floating(operation: Operation, machine: Machine) -> Kernel:
    """The same loops, in float32."""
    operator = operation.operator
    if not isinstance(operator, Conv2d | Dense):
        raise TypeError(f"Expected nn.conv2d or nn.dense, got {operator}")
    plan = make_plan(geometry_of(operation), machine, 1, "float32")
    weight, bias = operation.constants[1], operation.constants[2]
    func = _built(plan, ("float32", "float32", "float32"), activate(operator, machine.isa))
    packed_bias = pack_channels(plan, bias, 0.0)
    added = (3,) if isinstance(operator, Conv2dAdd) else ()
    return Kernel(func, (0, pack_weights(plan, weight), packed_bias, np.zeros_like(packed_bias), *added))
