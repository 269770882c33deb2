"""`nn.conv2d`, `qnn.conv2d`, `nn.dense` and `qnn.dense`: what they ask of the loop nest in `product`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import tirx

from pipeline.kernels.gemm.epilogue import Epilogue, activate, requantize
from pipeline.kernels.gemm.nest import make_function
from pipeline.kernels.gemm.packing import folded_bias, pack_channels, pack_sums, pack_weights
from pipeline.kernels.gemm.plan import Geometry, Plan, make_plan, make_workload
from pipeline.kernels.gemm.tile_nest import make_tile_function
from pipeline.kernels.gemm.tile_plan import fits_tiles, make_tile_plan
from pipeline.kernels.gemm.tiling import Workload
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.isa.x86.amx import TileInstructionSet
from pipeline.kernels.lib.requantize import sums_are_floats
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.registry import kernel, select
from pipeline.ops import Conv2d, Conv2dAdd, Dense, QConv2d, QConv2dAdd, QConv2dLookup, QDense


def geometry(operation: Operation) -> Geometry:
    """Return the shape of a convolution or matrix product."""
    attrs, (x, weight, *_) = operation.attrs, operation.inputs
    if isinstance(attrs, Conv2d | QConv2d):
        if any(attrs.padding):
            raise ValueError("Convolution kernels take padded inputs; run SeparatePadding first")
        batch, height, width, channels = x.shape
        out, kernel_h, kernel_w, _ = weight.shape
        per_group = (channels // attrs.groups, out // attrs.groups)
        window, halo = (kernel_h, kernel_w), attrs.halo
        added_halo = attrs.residual_halo if isinstance(attrs, Conv2dAdd | QConv2dAdd) else (0, 0, 0, 0)
        padded_h, padded_w = operation.output.shape[1:3]
        size = (padded_h - halo[0] - halo[2], padded_w - halo[1] - halo[3])
        image = (batch, height, width, attrs.groups, *per_group)
        return Geometry(*image, window, attrs.strides, attrs.dilation, *size, halo, added_halo)
    rows = x.size // x.shape[-1]
    return Geometry(1, 1, rows, 1, x.shape[-1], weight.shape[0], (1, 1), (1, 1), (1, 1), 1, rows)


def workload(operation: Operation, isa: InstructionSet) -> Workload | None:
    """Return what an operation's register tile is chosen for; None if its kernel has another way."""
    attrs = operation.attrs
    if not isinstance(attrs, Conv2d | Dense | QConv2d | QDense) or geometry(operation).depthwise:
        return None
    if select(operation, isa).generate is tiled:
        return None
    in_float = isinstance(attrs, Conv2d | Dense)
    depth, dtype = (1, "float32") if in_float else (isa.dot_depth, "int8")
    return make_workload(geometry(operation), isa, depth, dtype)


def product_cycles(operation: Operation, isa: InstructionSet) -> float:
    """Return about how many cycles the multiply-adds of a convolution take, without all that comes with them.

    Two dot products start in a cycle, and tile registers multiply a pixel's step in one.
    """
    g = geometry(operation)
    pixels = g.batch * g.out_height * g.out_width * g.groups
    if select(operation, isa).generate is tiled and isinstance(isa, TileInstructionSet):
        plan = make_tile_plan(g, isa)
        return pixels * plan.vectors * plan.steps * plan.geometry.segments[0] * plan.geometry.segments[1]
    work = make_workload(g, isa, isa.dot_depth, "int8")
    return pixels * work.vectors * work.steps / 2


def _not_depthwise(operation: Operation) -> bool:
    return not geometry(operation).depthwise


@kernel(QConv2dLookup, isa="avx512_vnni", variant="dot", accepts=_not_depthwise)
@kernel(QConv2d, isa="avx512_vnni", variant="dot", accepts=_not_depthwise)
@kernel(QConv2dAdd, isa="avx512_vnni", variant="dot")
@kernel(QDense, isa="avx512_vnni", variant="dot")
@kernel(QConv2d, isa="avx_vnni", variant="dot", accepts=_not_depthwise)
@kernel(QConv2dAdd, isa="avx_vnni", variant="dot")
@kernel(QDense, isa="avx_vnni", variant="dot")
@kernel(QConv2d, isa="sse41", variant="dot", accepts=_not_depthwise)
@kernel(QConv2dAdd, isa="sse41", variant="dot")
@kernel(QDense, isa="sse41", variant="dot")
@kernel(QConv2d, isa="portable", accepts=_not_depthwise)
@kernel(QConv2dAdd, isa="portable")
@kernel(QConv2dLookup, isa="portable", accepts=_not_depthwise)
@kernel(QDense, isa="portable")
def integer(operation: Operation, isa: InstructionSet) -> Kernel:
    """Sum `isa.dot_depth` products with each `isa.dot`."""
    attrs = operation.attrs
    if not isinstance(attrs, QConv2d | QDense):
        raise TypeError(f"Expected qnn.conv2d or qnn.dense, got {attrs}")
    plan = make_plan(geometry(operation), isa, isa.dot_depth, "int8")
    return _with_constants(
        plan, operation, lambda epilogue: make_function(plan, ("uint8", isa.weight_dtype, "int32"), epilogue)
    )


def _enough_for_tiles(operation: Operation) -> bool:
    return fits_tiles(geometry(operation))


@kernel(QConv2d, isa="amx_int8", variant="tiles", accepts=_enough_for_tiles)
@kernel(QConv2dAdd, isa="amx_int8", variant="tiles", accepts=_enough_for_tiles)
@kernel(QConv2dLookup, isa="amx_int8", variant="tiles", accepts=_enough_for_tiles)
@kernel(QDense, isa="amx_int8", variant="tiles", accepts=_enough_for_tiles)
def tiled(operation: Operation, isa: InstructionSet) -> Kernel:
    """Multiply tiles of 16 pixels by 64 values with `isa.multiply`."""
    attrs = operation.attrs
    if not isinstance(attrs, QConv2d | QDense) or not isinstance(isa, TileInstructionSet):
        raise TypeError(f"Expected qnn.conv2d or qnn.dense on tile registers, got {attrs} on {isa.name}")
    plan = make_tile_plan(geometry(operation), isa)
    return _with_constants(plan, operation, lambda epilogue: make_tile_function(plan, isa, epilogue))


def _with_constants(plan: Plan, operation: Operation, make: Callable[[Epilogue], tirx.PrimFunc]) -> Kernel:
    """Return an integer kernel with its packed weights, bias and multipliers."""
    attrs = operation.attrs
    if not isinstance(attrs, QConv2d | QDense):
        raise TypeError(f"Expected qnn.conv2d or qnn.dense, got {attrs}")
    weight, bias, multiplier = (operation.constants[i] for i in (1, 2, 3))
    bias = folded_bias(bias, weight, attrs.input_zero_point)
    floats = plan.isa.fuses_multiply_add and sums_are_floats(weight, bias, multiplier)
    table = operation.constants[4] if isinstance(attrs, QConv2dLookup) else None
    func = make(requantize(attrs, plan.isa, floats=floats, table=table))
    sums = pack_sums(plan, bias, multiplier, floats=floats)
    added = (4,) if isinstance(attrs, QConv2dAdd) else ()
    return Kernel(func, (0, pack_weights(plan, weight.astype(plan.isa.weight_dtype)), *sums, *added))


@kernel(Conv2d, isa="portable", accepts=_not_depthwise)
@kernel(Conv2dAdd, isa="portable")
@kernel(Dense, isa="portable")
def floating(operation: Operation, isa: InstructionSet) -> Kernel:
    """The same loops in float32."""
    attrs = operation.attrs
    if not isinstance(attrs, Conv2d | Dense):
        raise TypeError(f"Expected nn.conv2d or nn.dense, got {attrs}")
    plan = make_plan(geometry(operation), isa, 1, "float32")
    weight, bias = operation.constants[1], operation.constants[2]
    func = make_function(plan, ("float32", "float32", "float32"), activate(attrs))
    packed_bias = pack_channels(plan, bias, 0.0)
    added = (3,) if isinstance(attrs, Conv2dAdd) else ()
    return Kernel(func, (0, pack_weights(plan, weight), packed_bias, np.zeros_like(packed_bias), *added))
