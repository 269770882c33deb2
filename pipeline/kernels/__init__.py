"""TIR kernels for the operators of `ops`. Nothing here knows Relax.

Importing this package registers every kernel; `registry` lists them.
"""

from pipeline.kernels.depthwise import dot as depthwise_dot
from pipeline.kernels.depthwise import lanes as depthwise_conv2d
from pipeline.kernels.ops import (
    conv2d,
    depth_to_space,
    elementwise,
    global_pooling,
    lookup,
    matmul,
    pad,
    pooling,
    quantize,
    quantize_image,
    resize_bilinear,
    rows,
    softmax,
    sorting,
    stack,
    unary,
    upsample_concat,
)

__all__ = [
    "conv2d",
    "depth_to_space",
    "depthwise_conv2d",
    "depthwise_dot",
    "elementwise",
    "global_pooling",
    "lookup",
    "matmul",
    "pad",
    "pooling",
    "quantize",
    "quantize_image",
    "resize_bilinear",
    "rows",
    "softmax",
    "sorting",
    "stack",
    "unary",
    "upsample_concat",
]
