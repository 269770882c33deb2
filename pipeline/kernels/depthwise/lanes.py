"""Depthwise convolution: each output channel sums over one input channel, so lanes are channels of activations too.

    for (channel block, output row), in parallel:
        for tile of the row:                          mr pixels x one vector of channels, in registers
            for row of the kernel:
                for tap of that row, for pixel:       unrolled: one multiply-add of vectors each
            for pixel:                                unrolled: epilogue, store

As everywhere (`lib/tails.py`), the last tile of a row and the last vector of channels overlap those before them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.gemm.epilogue import Epilogue, activate, requantize
from pipeline.kernels.gemm.geometry import Geometry, geometry_of
from pipeline.kernels.gemm.micro_kernel import accumulate, begin
from pipeline.kernels.gemm.parallel import worth_threads
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.loops import MAX_UNROLLED_TAPS
from pipeline.kernels.lib.vectors import part, span, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import Conv2d

Array = npt.NDArray[Any]


def is_depthwise(operation: Operation) -> bool:
    """Return whether an operation is a depthwise convolution."""
    return geometry_of(operation).depthwise


def integer_depthwise(operation: Operation, machine: Machine) -> Kernel:
    """Multiply and add in int32; the zero point is in the bias."""
    plan = Plan.choose(geometry_of(operation), machine.isa)
    stored = operation.inputs[0].dtype
    constants = IntegerConstants.of(operation, as_floats=False, activation_offset=128 if stored == "int8" else 0)
    func = make_function(plan, (stored, "int8", "int32"), requantize(constants, machine.isa))
    scales = constants.packed_scales(functools.partial(pack_channels, plan))
    packed = pack_channels(plan, constants.start), scales
    return Kernel(func, (0, pack_weights(plan, constants.weight), *packed))


def float_depthwise(operation: Operation, machine: Machine) -> Kernel:
    """The same loops in float32."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, Conv2d):
        raise TypeError(f"Expected nn.conv2d, got {operator}")
    plan = Plan.choose(geometry_of(operation), isa)
    func = make_function(plan, ("float32", "float32", "float32"), activate(operator, isa))
    bias = pack_channels(plan, operation.constants[2])
    return Kernel(func, (0, pack_weights(plan, operation.constants[1]), bias, np.zeros_like(bias)))


@dataclass(frozen=True)
class Plan:
    """What the loops and the layout of the constants depend on.

    Attributes:
        geometry: the convolution; `groups` is the number of channels.
        isa: the instruction set.
        lanes: channels in a vector: the instruction set's, or fewer for an image of fewer channels.
        mr: pixels in a tile.
    """

    geometry: Geometry
    isa: InstructionSet
    lanes: int
    mr: int

    @classmethod
    def choose(cls, geometry: Geometry, isa: InstructionSet) -> Plan:
        """Return the plan: as many pixels as fit beside a row of weights and some activations, in tiles of one size."""
        lanes = min(isa.lanes, 1 << (geometry.groups.bit_length() - 1))
        most = max(2, (isa.registers - min(geometry.kernel[1], isa.registers // 4)) // 2)
        tiles = -(-geometry.out_width // most)
        return cls(geometry, isa, lanes, -(-geometry.out_width // tiles))

    @property
    def blocks(self) -> int:
        """Number of channel vectors."""
        return -(-self.geometry.groups // self.lanes)

    def first_channel(self, block: Any) -> Any:
        """Return the first channel of a vector."""
        return tails.start(block, self.lanes, self.geometry.groups)


def pack_channels(plan: Plan, values: Array) -> Array:
    """Return per-channel constants [C] in the order of the vectors: [blocks * lanes]."""
    first = tails.starts(plan.lanes, plan.geometry.groups)
    return np.ascontiguousarray(values[np.add.outer(first, np.arange(plan.lanes)).reshape(-1)])


def pack_weights(plan: Plan, weight: Array) -> Array:
    """Return weights [C,KH,KW,1] as [blocks][KH][KW][lanes], flat."""
    taps = plan.geometry.kernel[0] * plan.geometry.kernel[1]
    lanes = pack_channels(plan, weight.reshape(plan.geometry.groups, taps)).reshape(plan.blocks, plan.lanes, taps)
    return np.ascontiguousarray(lanes.transpose(0, 2, 1)).reshape(-1)


def make_function(plan: Plan, dtypes: tuple[str, str, str], epilogue: Epilogue) -> tirx.PrimFunc:
    """Return the loops as a function of (x, weights, bias, multiplier, y), all flat.

    Args:
        plan: geometry and tile.
        dtypes: of input, weights and accumulator.
        epilogue: what happens to the accumulators.
    """
    g, lanes, mr = plan.geometry, plan.lanes, plan.mr
    lines, tiles = g.batch * g.out_height, -(-g.out_width // mr)
    taps = g.kernel[0] * g.kernel[1]
    loop = T.parallel if worth_threads(g, plan.isa, 1) else T.serial
    multiply_add = functools.partial(_multiply_add, dtype=dtypes[2], lanes=lanes)

    def register(i: int, _: int) -> Any:
        return span(i * lanes, lanes)

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((g.batch * g.height * g.width * g.groups,), dtypes[0]))
        weights = T.arg("weights", T.buffer((plan.blocks * taps * lanes,), dtypes[1]))
        bias = T.arg("bias", T.buffer((plan.blocks * lanes,), dtypes[2]))
        multiplier = T.arg("multiplier", T.buffer((epilogue.scales * plan.blocks * lanes,), "float32"))
        y = T.arg("y", T.buffer((lines * g.out_width * g.groups,), epilogue.dtype))
        with loop(plan.blocks * lines) as p:
            acc = register_buffer(mr * lanes, dtypes[2])
            block, line = p % plan.blocks, p // plan.blocks
            constants = span(block * lanes, lanes)
            channel = plan.first_channel(block)
            top = line // g.out_height * g.height + line % g.out_height * g.strides[0]
            with T.serial(tiles) as t:
                column = tails.start(t, mr, g.out_width)
                begin(acc, mr, 1, register, lambda _: bias[constants])
                with T.serial(g.kernel[0]) as ky:
                    row = (top + ky * g.dilation[0]) * g.width + column * g.strides[1]

                    def tap(kx: Any) -> None:
                        w = weights[span(((block * g.kernel[0] + ky) * g.kernel[1] + kx) * lanes, lanes)]

                        def values(i: int) -> Any:
                            pixel = row + i * g.strides[1] + kx * g.dilation[1]
                            return x[span(pixel * g.groups + channel, lanes)]

                        accumulate(acc, mr, 1, register, multiply_add, values, lambda _: w)

                    _repeat(g.kernel[1], tap)
                for first, count in _groups(mr, epilogue.together if lanes == plan.isa.lanes else 1):
                    accumulators = [acc[register(first + i, 0)] for i in range(count)]
                    starts = (k * plan.blocks * lanes for k in range(epilogue.scales))
                    scales = [multiplier[span(start + block * lanes, lanes)] for start in starts]
                    result = epilogue.finish(accumulators, *([own] * count for own in scales))
                    for i in range(count):
                        offset = (line * g.out_width + column + first + i) * g.groups + channel
                        T.buffer_store(y, part(result, i * lanes, lanes), [span(offset, lanes)])
    return builder.get()


def _groups(count: int, size: int) -> list[tuple[int, int]]:
    """Cut `count` things into groups of `size`, and single ones in the end: (first, how many) of each."""
    whole = count // size * size
    return [(first, size) for first in range(0, whole, size)] + [(first, 1) for first in range(whole, count)]


def _repeat(count: int, body: Callable[[Any], None]) -> None:
    if count > MAX_UNROLLED_TAPS:
        with T.serial(count) as k:
            body(k)
        return
    for k in range(count):
        body(k)


def _multiply_add(acc: Any, x: Any, w: Any, *, dtype: str, lanes: int) -> Any:
    if dtype == "float32":
        return acc + x * w
    wide = vector_type(dtype, lanes)
    return acc + T.cast(x, wide) * T.cast(w, wide)
