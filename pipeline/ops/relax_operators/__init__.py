"""Descriptions of Relax's own operators: their traits, and their references in NumPy.

Passes assume nothing of an operator whose description has no traits, nor of one without a description.
"""

from __future__ import annotations

from pipeline.ops.relax_operators.base import RelaxOperator, relax_operators
from pipeline.ops.relax_operators.comparison import ValueByValue
from pipeline.ops.relax_operators.elementwise import (
    Cast,
    Clip,
    DerivedFunction,
    Elementwise,
    Function,
    LeakyRelu,
    Softplus,
)
from pipeline.ops.relax_operators.movement import (
    BroadcastTo,
    Concat,
    GatherElements,
    PermuteDims,
    Reshape,
    Resize2d,
    ScatterElements,
    StridedSlice,
    Take,
)
from pipeline.ops.relax_operators.reduction import (
    CumulativeSum,
    MatMul,
    MeanPool,
    PositionOfExtreme,
    Reduction,
    Softmax,
    Spread,
)
from pipeline.ops.relax_operators.sorting import ArgSort, Sort, TopK

__all__ = [
    "ArgSort",
    "BroadcastTo",
    "Cast",
    "Clip",
    "Concat",
    "CumulativeSum",
    "DerivedFunction",
    "Elementwise",
    "Function",
    "GatherElements",
    "LeakyRelu",
    "MatMul",
    "MeanPool",
    "PermuteDims",
    "PositionOfExtreme",
    "Reduction",
    "RelaxOperator",
    "Reshape",
    "Resize2d",
    "ScatterElements",
    "Softmax",
    "Softplus",
    "Sort",
    "Spread",
    "StridedSlice",
    "Take",
    "TopK",
    "ValueByValue",
    "relax_operators",
]
