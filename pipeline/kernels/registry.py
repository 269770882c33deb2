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
from pipeline.kernels.gemm.register_tile import Workload
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
        variant: the part of its name that distinguishes it from the operator's other kernels; "" for the most general.
        pays: whether the cost models find it quicker than the kernels behind it.
        workload: what its register tile is chosen for; None if it has no tile, or another way to choose it.
        product_cycles: about how many cycles its multiply-adds take, loads and stores left aside; None if no pass asks.
    """

    operator: type[Operator]
    generate: Generator
    requires: tuple[Capability, ...] = ()
    accepts: Predicate = _any
    variant: str = ""
    pays: Comparison = _always
    workload: Callable[[Operation, Machine], Workload] | None = None
    product_cycles: Callable[[Operation, Machine], float] | None = None

    def is_for(self, operation: Operation, machine: Machine) -> bool:
        """Return whether the machine can run this kernel, and whether it is for an operation of its operator."""
        return machine.isa.has(*self.requires) and self.accepts(operation) and self.pays(operation, machine)


_MATRICES = (Capability.MATRIX_REGISTERS,)
_BLOCKS = (Capability.BLOCK_PRODUCTS,)
_LANE_DOTS = (Capability.LANE_DOT_PRODUCTS,)
_WORDS = (Capability.WORD_PRODUCTS,)
_WIDE = (Capability.WIDE_PRODUCTS,)
_FUSED_LOOKUP = (Capability.FUSED_LOOKUP,)
_TABLE_LOOKUP = (Capability.TABLE_LOOKUP,)


def _winograd_pays(operation: Operation, machine: Machine) -> bool:
    direct = next(entry for entry in (_BLOCK, _VECTORS) if entry.is_for(operation, machine))
    return direct.workload is not None and winograd_plan.pays(operation, machine, direct.workload(operation, machine))


_MATRIX = Entry(
    QConv2d, conv.matrix_integer, _MATRICES, conv.fills_matrices, "matrix", product_cycles=conv.matrix_cycles
)
_QUADS = Entry(
    QConv2d, depthwise_quads.depthwise_quads, _LANE_DOTS + _WIDE, depthwise_quads.fits_quads, "depthwise_quads"
)
_DOT = Entry(QConv2d, depthwise_dot.depthwise_dot, _LANE_DOTS, depthwise_dot.fills_vectors, "depthwise_dot")
_PAIRS = Entry(QConv2d, depthwise_pairs.depthwise_pairs, _WIDE, depthwise_pairs.fits_pairs, "depthwise_pairs")
_DEPTHWISE = Entry(QConv2d, depthwise_lanes.integer_depthwise, (), depthwise_lanes.is_depthwise, "depthwise")
_WINOGRAD = Entry(QConv2d, winograd.winograd, _WORDS, winograd_plan.fits, "winograd", _winograd_pays)
_BLOCK = Entry(
    QConv2d,
    conv.block_integer,
    _BLOCKS,
    conv.fills_blocks,
    "block",
    conv.lines_fill_blocks,
    conv.block_workload,
    conv.block_cycles,
)
_BYTES = Entry(
    QConv2d,
    conv.block_integer,
    _BLOCKS + _LANE_DOTS,
    conv.words_fill_blocks,
    "bytes",
    conv.lines_fill_blocks,
    conv.block_workload,
    conv.block_cycles,
)
_VECTORS = Entry(QConv2d, conv.integer, workload=conv.integer_workload, product_cycles=conv.integer_cycles)


def _for(operator: type[Operator], *entries: Entry, requires: tuple[Capability, ...] = ()) -> tuple[Entry, ...]:
    """Return a convolution's kernels for another operator, all of which require something more."""
    return tuple(dataclasses.replace(e, operator=operator, requires=requires + e.requires) for e in entries)


KERNELS: tuple[Entry, ...] = (
    *_for(QConv2d, _MATRIX, _QUADS, _DOT, _PAIRS, _DEPTHWISE, _WINOGRAD, _BLOCK, _BYTES, _VECTORS),
    # Winograd's nest has no room for constants of the function.
    *_for(QConv2dHardSwish, _MATRIX, _QUADS, _DOT, _PAIRS, _DEPTHWISE, _BLOCK, _BYTES, _VECTORS),
    *_for(QConv2dAdd, _MATRIX, _WINOGRAD, _BLOCK, _BYTES, _VECTORS),
    *_for(QConv2dLookup, _MATRIX, _DOT, _DEPTHWISE, _BLOCK, _BYTES, _VECTORS, requires=_FUSED_LOOKUP),
    *_for(QDense, _MATRIX, _BLOCK, _BYTES, _VECTORS),
    Entry(Conv2d, depthwise_lanes.float_depthwise, (), depthwise_lanes.is_depthwise, "depthwise"),
    Entry(Conv2d, conv.floating, workload=conv.float_workload),
    Entry(Conv2dAdd, conv.floating, workload=conv.float_workload),
    Entry(Dense, conv.floating, workload=conv.float_workload),
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


def workload(operation: Operation, machine: Machine) -> Workload | None:
    """Return what the register tile of an operation's kernel is chosen for; None if it has another way."""
    entry = select(operation, machine)
    return None if entry.workload is None else entry.workload(operation, machine)


def product_cycles(operation: Operation, machine: Machine) -> float:
    """Return about how many cycles the multiply-adds of a convolution that isn't depthwise take."""
    entry = select(operation, machine)
    if entry.product_cycles is None:
        raise TypeError(f"Expected a convolution by dot products, got {operation.operator}")
    return entry.product_cycles(operation, machine)


def select(operation: Operation, machine: Machine) -> Entry:
    """Return the first kernel for an operation whose requirements a machine meets, that accepts it, and that pays.

    Raises:
        LookupError: there is none. An operator's last kernel accepts everything, and few require anything, so this is a
            defect: a pass has made an operator that the instruction set has no kernel for.
    """
    for entry in KERNELS:
        if entry.operator is type(operation.operator) and entry.is_for(operation, machine):
            return entry
    raise LookupError(f"No kernel for {operation.operator} on {machine.isa.name}")
