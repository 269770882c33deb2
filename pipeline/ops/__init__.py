"""The operators that programs are made of, one module for each family.

Two groups of operators are defined here. `nn.*` are float32 operators with bias and activation fused in, which the
importer produces. `qnn.*` are their integer counterparts, which `realize` produces. All other operators in programs are
Relax's own, described in `relax_operators`. Activations are NHWC; convolution weights are OHWI.

Each operator is a frozen dataclass, whose fields are its attributes: what it computes, its arguments, its result's
type, what passes may assume of it, and its reference in NumPy. It depends on no compiler; Relax, the passes and the
kernels all use it. The class docstring is the operator's specification, exact to the bit for integer operators. There,
`rint` rounds half to even, products and roundings are float32, and no multiply may be contracted with a following add.
"""

# ruff: noqa: F403
# All public names of the families' modules are this package's.

from __future__ import annotations

from tvm import relax

from pipeline.ir.bridge import operator_of, tensor_operands, tensor_type
from pipeline.ir.dataflow import Binding
from pipeline.ir.operator import Operator as Operator
from pipeline.ir.operator import Traits as Traits
from pipeline.ir.operator import operators as operators
from pipeline.ops import relax_operators as relax_operators
from pipeline.ops.bases import *
from pipeline.ops.conv import *
from pipeline.ops.conv_transpose import *
from pipeline.ops.elementwise import *
from pipeline.ops.matmul import *
from pipeline.ops.movement import *
from pipeline.ops.normalization import *
from pipeline.ops.pooling import *
from pipeline.ops.quantize import *
from pipeline.ops.resize import *
from pipeline.ops.two_bytes import *


def traits_of(binding: Binding) -> Traits:
    """Return what may be assumed of a binding's operator, ours or Relax's; of an unknown one, the safe defaults."""
    operator = operator_of(binding.value)
    if operator is not None:
        return operator
    known = relax_operators.relax_operators().get(binding.operator)
    return Traits() if known is None else known(binding)


def multiply_adds(binding: Binding) -> int:
    """Return how many products a binding's operator sums, 0 if it isn't one that sums products."""
    if not isinstance(binding.value, relax.Call) or not traits_of(binding).sums_products:
        return 0
    return int(traits_of(binding).multiply_adds(*map(tensor_type, tensor_operands(binding.value))))
