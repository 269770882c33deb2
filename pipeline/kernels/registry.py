"""The table of kernels: which one computes an operator, and what it requires of the instruction set.

A kernel is registered once. It is written with the primitives of `InstructionSet` (`isa/contract.py`), so it works on
every instruction set that has the capabilities which the kernel requires, with vectors of that instruction set's
length. `select` returns an operator's first kernel whose requirements are met and that accepts the operation, so
special kernels are listed before general ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.kernels.depthwise import dot as depthwise_dot
from pipeline.kernels.depthwise import lanes as depthwise_lanes
from pipeline.kernels.depthwise import pairs as depthwise_pairs
from pipeline.kernels.depthwise import quads as depthwise_quads
from pipeline.kernels.isa.contract import Capability
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.ops import (
    conv,
    elementwise,
    global_pooling,
    hard_swish,
    lookup,
    matmul,
    movement,
    normalization,
    pooling,
    quantize,
    quantize_image,
    resize,
    two_bytes,
    unary,
)
from pipeline.kernels.winograd import nest as winograd
from pipeline.kernels.winograd import plan as winograd_plan
from pipeline.ops import (
    Add,
    AvgPool2d,
    Conv2d,
    Conv2dAdd,
    Dense,
    DepthToSpace,
    Dequantize,
    JoinSums,
    LayerNorm,
    MatMul,
    MaxPool2d,
    Multiply,
    Operator,
    Pad,
    PRelu,
    QAdd,
    QAvgPool2d,
    QConv2d,
    QConv2dAdd,
    QConv2dHardSwish,
    QConv2dLookup,
    QDense,
    QHardSwish,
    QInterpolate,
    QLookup,
    QMatMul,
    QMultiply,
    QPRelu,
    QResizeBilinear,
    QSoftmax,
    Quantize,
    QuantizeImage,
    ResizeBilinear,
    Softmax,
    SortOrder,
    SplitBytes,
    Stack,
    Unary,
    UpsampleConcat,
)

Generator = Callable[[Operation, Machine], Kernel]
Predicate = Callable[[Operation], bool]
Comparison = Callable[[Operation, Machine], bool]


def _any(_: Operation) -> bool:
    return True


def _always(_operation: Operation, _machine: Machine) -> bool:
    return True


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        operator: what the kernel computes.
        generate: generates the kernel for an operation and a machine.
        requires: capabilities that an instruction set must have to run it at all, or to run it fast.
        accepts: whether the kernel can compute an operation, and does it fast.
        pays: whether the cost models find it quicker than the kernels behind it.
        variant: the part of its name that distinguishes it from the operator's other kernels; "" for the most general.
    """

    operator: type[Operator]
    generate: Generator
    requires: tuple[Capability, ...] = ()
    accepts: Predicate = _any
    variant: str = ""
    pays: Comparison = _always


_MATRICES = (Capability.MATRIX_REGISTERS,)
_BLOCKS = (Capability.BLOCK_PRODUCTS,)
_LANE_DOTS = (Capability.LANE_DOT_PRODUCTS,)
_WORDS = (Capability.WORD_PRODUCTS,)
_WIDE = (Capability.WIDE_PRODUCTS,)
_FUSED_LOOKUP = (Capability.FUSED_LOOKUP,)
_TABLE_LOOKUP = (Capability.TABLE_LOOKUP,)

_CONVOLUTIONS = (
    Entry(QConv2d, conv.matrix_integer, _MATRICES, conv.fills_matrices, "matrix"),
    Entry(QConv2d, depthwise_quads.depthwise_quads, _LANE_DOTS + _WIDE, depthwise_quads.fits_quads, "depthwise_quads"),
    Entry(QConv2d, depthwise_dot.depthwise_dot, _LANE_DOTS, depthwise_dot.fills_vectors, "depthwise_dot"),
    Entry(QConv2d, depthwise_pairs.depthwise_pairs, _WIDE, depthwise_pairs.fits_pairs, "depthwise_pairs"),
    Entry(QConv2d, depthwise_lanes.integer_depthwise, (), depthwise_lanes.is_depthwise, "depthwise"),
    Entry(QConv2d, winograd.winograd, _WORDS, winograd_plan.fits, "winograd", conv.winograd_pays),
    Entry(QConv2d, conv.block_integer, _BLOCKS, conv.fills_blocks, "block"),
    Entry(QConv2d, conv.integer),
)

KERNELS: tuple[Entry, ...] = (
    *_CONVOLUTIONS,
    # Winograd's nest has no room for constants of the function.
    *(dataclasses.replace(e, operator=QConv2dHardSwish) for e in _CONVOLUTIONS if e.generate is not winograd.winograd),
    Entry(QConv2dAdd, conv.matrix_integer, _MATRICES, conv.fills_matrices, "matrix"),
    Entry(QConv2dAdd, winograd.winograd, _WORDS, winograd_plan.fits, "winograd", conv.winograd_pays),
    Entry(QConv2dAdd, conv.block_integer, _BLOCKS, conv.fills_blocks, "block"),
    Entry(QConv2dAdd, conv.integer),
    Entry(QConv2dLookup, conv.matrix_integer, _FUSED_LOOKUP + _MATRICES, conv.fills_matrices, "matrix"),
    Entry(
        QConv2dLookup,
        depthwise_dot.depthwise_dot,
        _FUSED_LOOKUP + _LANE_DOTS,
        depthwise_dot.fills_vectors,
        "depthwise_dot",
    ),
    Entry(QConv2dLookup, depthwise_lanes.integer_depthwise, _FUSED_LOOKUP, depthwise_lanes.is_depthwise, "depthwise"),
    Entry(QConv2dLookup, conv.block_integer, _FUSED_LOOKUP + _BLOCKS, conv.fills_blocks, "block"),
    Entry(QConv2dLookup, conv.integer, _FUSED_LOOKUP),
    Entry(Conv2d, depthwise_lanes.float_depthwise, (), depthwise_lanes.is_depthwise, "depthwise"),
    Entry(Conv2d, conv.floating),
    Entry(Conv2dAdd, conv.floating),
    Entry(QDense, conv.matrix_integer, _MATRICES, conv.fills_matrices, "matrix"),
    Entry(QDense, conv.block_integer, _BLOCKS, conv.fills_blocks, "block"),
    Entry(QDense, conv.integer),
    Entry(Dense, conv.floating),
    Entry(QMatMul, matmul.integer),
    Entry(MatMul, matmul.floating),
    Entry(QLookup, lookup.in_vectors, _TABLE_LOOKUP, lookup.is_long, "vectors"),
    Entry(QLookup, lookup.loaded),
    Entry(QInterpolate, lookup.interpolated),
    Entry(QAdd, elementwise.qadd),
    Entry(Add, elementwise.add),
    Entry(QMultiply, elementwise.qmultiply),
    Entry(Multiply, elementwise.multiply),
    Entry(QPRelu, elementwise.qprelu),
    Entry(QHardSwish, hard_swish.hard_swish),
    Entry(PRelu, elementwise.prelu),
    Entry(Unary, unary.unary),
    Entry(MaxPool2d, pooling.max_pool2d),
    Entry(QAvgPool2d, global_pooling.integer, (), pooling.whole_image, "global"),
    Entry(QAvgPool2d, pooling.avg_pool2d),
    Entry(AvgPool2d, global_pooling.floating, (), pooling.whole_image, "global"),
    Entry(AvgPool2d, pooling.float_avg_pool2d),
    Entry(QSoftmax, normalization.qsoftmax),
    Entry(Softmax, normalization.softmax),
    Entry(LayerNorm, normalization.layer_norm),
    Entry(QResizeBilinear, resize.integer_bilinear),
    Entry(ResizeBilinear, resize.float_bilinear),
    Entry(UpsampleConcat, resize.upsample_concat),
    Entry(Quantize, quantize.quantize),
    Entry(Dequantize, quantize.dequantize),
    Entry(SplitBytes, two_bytes.split_bytes),
    Entry(JoinSums, two_bytes.join_sums),
    Entry(QuantizeImage, quantize_image.quantize_image),
    Entry(Pad, movement.pad),
    Entry(DepthToSpace, movement.depth_to_space),
    Entry(Stack, movement.stack),
    Entry(SortOrder, movement.sort_order),
)
"""All kernels; those of one operator in the order in which they are tried."""


def select(operation: Operation, machine: Machine) -> Entry:
    """Return the first kernel for an operation whose requirements a machine meets, that accepts it, and that pays.

    Raises:
        LookupError: there is none. An operator's last kernel accepts everything, and few require anything, so this is a
            defect: a pass has made an operator that the instruction set has no kernel for.
    """
    for entry in KERNELS:
        if entry.operator is not type(operation.operator) or not machine.isa.has(*entry.requires):
            continue
        if entry.accepts(operation) and entry.pays(operation, machine):
            return entry
    raise LookupError(f"No kernel for {operation.operator} on {machine.isa.name}")
