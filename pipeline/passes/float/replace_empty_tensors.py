"""ReplaceEmptyTensors: tensors without elements become constants.

Before -> after: `y = relu(x)` with y: [1, 0, 4] becomes a constant of that shape. An operator that reads such a tensor,
but whose result has elements, is replaced, too: concatenations leave the tensor out, matrix products over an empty axis
are zero (plus the bias), padding is a constant, and sums are left to constant folding. Other such operators have no
defined result, and are refused.

Models have empty tensors where, for example, a list of states or detections is empty for the given input shapes.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import UnsupportedProgramError, operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant
from pipeline.ir.rewriting import rewrite_bindings

_FOLDED = frozenset({"relax.nn.pad", "relax.prod", "relax.sum"})
"""Operators whose results on empty tensors are defined, and are computed by TVM's constant folding."""


def replace_empty_tensors(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with empty tensors replaced by constants; see the module's docstring.

    Raises:
        UnsupportedProgramError: an operator's result on an empty tensor isn't defined.
    """
    flow = Dataflow.of(module)
    if not any(_is_empty(b.var) or any(map(_is_empty, _operands(b.value))) for b in flow.bindings):
        return module
    return rewrite_bindings(module, _replaced)


def _replaced(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
    if _is_empty(binding.var):
        type_ = tensor_type(binding.var)
        return make_constant(np.zeros(type_.shape, type_.dtype))
    if any(map(_is_empty, _operands(binding.value))) and binding.operator not in _FOLDED:
        return _without_elements(builder, binding)
    return None


def _without_elements(builder: DataflowBuilder, binding: Binding) -> relax.Expr | None:
    """Return the new expression for a binding that reads an empty tensor, and has elements itself."""
    value = binding.value
    if binding.operator == "relax.concat":
        kept = [builder.replaced(f) for f in value.args[0].fields if not _is_empty(f)]
        return relax.op.concat(kept, int(value.attrs["axis"]))
    operator, type_ = operator_of(value), tensor_type(binding.var)
    if isinstance(operator, ops.Dense) and (bias := constant(value.args[2])) is not None:
        return make_constant(np.broadcast_to(bias, type_.shape))
    if isinstance(operator, ops.Pad):
        return make_constant(np.full(type_.shape, operator.value, type_.dtype))
    if isinstance(operator, ops.MatMul) or binding.operator == "relax.matmul":
        return make_constant(np.zeros(type_.shape, type_.dtype))
    if isinstance(value, relax.Tuple):
        return None
    empty = next(o for o in _operands(value) if _is_empty(o))
    name = repr(empty.name) if isinstance(empty, relax.Var) else "a constant"
    raise UnsupportedProgramError(
        f"tensor {binding.var.name!r} is computed by {binding.operator.rpartition('.')[2]} from {name}, of the shape "
        f"{list(tensor_type(empty).shape)}, which has no elements"
    )


def _operands(value: relax.Expr) -> list[relax.Expr]:
    """Return the tensors that an expression reads."""
    if isinstance(value, relax.Call):
        return [o for a in value.args for o in _operands(a)]
    if isinstance(value, relax.Tuple):
        return [o for f in value.fields for o in _operands(f)]
    return [value]


def _is_empty(expr: relax.Expr) -> bool:
    return isinstance(expr.ty, relax.TensorType) and math.prod(tensor_type(expr).shape) == 0
