"""Descriptions of Relax's own operators: their traits, and their references in NumPy.

Only operators whose traits passes use are described; nothing is assumed of any other.
"""

from __future__ import annotations

from pipeline.ops.relax_operators.base import RelaxOperator, relax_operators
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
    Concat,
    GatherElements,
    PermuteDims,
    Reshape,
    Resize2d,
    StridedSlice,
    Take,
)
from pipeline.ops.relax_operators.reduction import CumulativeSum, MatMul, MeanPool, Reduction
from pipeline.ops.relax_operators.sorting import ArgSort, Sort, TopK

__all__ = [
    "ArgSort",
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
    "Reduction",
    "RelaxOperator",
    "Reshape",
    "Resize2d",
    "Softplus",
    "Sort",
    "StridedSlice",
    "Take",
    "TopK",
    "relax_operators",
]
