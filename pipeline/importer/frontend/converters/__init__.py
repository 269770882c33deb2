"""Our own ONNX converters, which take precedence over TVM's.

An operator has one for one of two reasons: TVM's converter gives plain TIR (`emit_te`), or another form in which
quantization and kernels don't recognize the operator; or it computes other values than ONNX defines. Convolutions and
pools are converted to NHWC, between two permutations, which the pass PropagateLayout removes.

To add a converter, write a function from a `Node` to a Relax expression in the module of its family, and add it to
`CONVERTERS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from pipeline.importer.frontend.converters import (
    convolution,
    elementwise,
    movement,
    normalization,
    pooling,
    reduction,
    regions,
    resize,
    selection,
)
from pipeline.importer.frontend.converters.node import Convert

__all__ = ["CONVERTERS"]

CONVERTERS: Mapping[str, Convert] = {
    "AffineGrid": regions.affine_grid,
    "ArgMax": selection.arg_max,
    "ArgMin": selection.arg_min,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": convolution.batch_normalization,
    "BitShift": elementwise.bit_shift,
    "Cast": elementwise.cast,
    "CastLike": elementwise.cast_like,
    "Clip": elementwise.clip,
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transpose,
    "CumSum": selection.cumulative_sum,
    "DepthToSpace": movement.depth_to_space,
    "Div": elementwise.divide,
    "Elu": elementwise.elu,
    "EyeLike": movement.eye_like,
    "Gather": selection.gather,
    "GatherElements": selection.gather_elements,
    "GatherND": selection.gather_nd,
    "Gemm": convolution.gemm,
    "GlobalAveragePool": pooling.global_average_pool,
    "GlobalLpPool": pooling.global_lp_pool,
    "Hardmax": normalization.hardmax,
    "Identity": movement.identity,
    "IsInf": elementwise.is_infinite,
    "LRN": normalization.local_response_normalization,
    "LayerNormalization": normalization.layer_normalization,
    "LpNormalization": normalization.lp_normalization,
    "LpPool": pooling.lp_pool,
    "MatMul": convolution.matmul,
    "Max": elementwise.variadic(relax.op.maximum),
    "MaxPool": pooling.max_pool,
    "MaxUnpool": pooling.max_unpool,
    "Mean": elementwise.mean,
    "Min": elementwise.variadic(relax.op.minimum),
    "Mod": elementwise.modulo,
    "NonMaxSuppression": selection.non_max_suppression,
    "OneHot": selection.one_hot,
    "PRelu": elementwise.prelu,
    "Pad": movement.pad,
    "Pow": elementwise.power,
    "ReduceMax": reduction.converter(relax.op.max),
    "ReduceMean": reduction.converter(relax.op.mean),
    "ReduceMin": reduction.converter(relax.op.min),
    "ReduceProd": reduction.converter(relax.op.prod),
    "ReduceSum": reduction.converter(relax.op.sum),
    "Resize": resize.resize,
    "ReverseSequence": movement.reverse_sequence,
    "RoiAlign": regions.roi_align,
    "ScatterElements": selection.scatter_elements,
    "ScatterND": selection.scatter_nd,
    "Softmax": normalization.softmax,
    "SpaceToDepth": movement.space_to_depth,
    "Split": movement.split,
    "Sum": elementwise.variadic(relax.op.add),
    "Tile": movement.tile,
    "TopK": selection.top_k,
    "Trilu": movement.trilu,
}
"""Our converters, by ONNX operator."""
