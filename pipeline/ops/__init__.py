"""The operators that programs are made of, one module for each family; importing this package imports all of them.

Two families are ours. `nn.*` are float32 operators with bias and activation fused in, as the importer produces them.
`qnn.*` are their integer counterparts, as `realize` produces them. Everything else in a program is an operator of
Relax's own, described in `relax_operators`. Activations are NHWC; convolution weights are OHWI.

One frozen dataclass is one operator, without any compiler in it: what it computes, its arguments, its result's type,
what passes may assume of it, and its reference in NumPy. Relax, all passes and the kernels read it. The class docstring
*is* the operator's specification; the quantized ones are exact to the bit. In them `rint` rounds half to even, products
and roundings are float32, and no multiply may be contracted with a following add.
"""

# ruff: noqa: F403
# Each family says by itself what it holds: what is defined in it and has a public name.

from __future__ import annotations

from pipeline.ir.bridge import describe
from pipeline.ir.dataflow import Binding
from pipeline.ir.operator import Operator as Operator
from pipeline.ir.operator import Traits as Traits
from pipeline.ir.operator import operators as operators
from pipeline.ops import relax_operators as relax_operators
from pipeline.ops.bases import *
from pipeline.ops.conv import *
from pipeline.ops.elementwise import *
from pipeline.ops.matmul import *
from pipeline.ops.movement import *
from pipeline.ops.normalization import *
from pipeline.ops.pooling import *
from pipeline.ops.quantize import *
from pipeline.ops.resize import *


def traits_of(binding: Binding) -> Traits:
    """Return what is known of a binding's operator, ours or Relax's; of others, what is right for all."""
    operator = describe(binding.value)
    if operator is not None:
        return operator
    known = relax_operators.relax_operators().get(binding.operator)
    return Traits() if known is None else known(binding)
