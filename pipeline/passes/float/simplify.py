"""Simplify: constants folded, and operators that change nothing removed.

Before -> after: `reshape(x, x.shape)`, `permute_dims(x, identity)`, `astype(x, x.dtype)` become x; a call whose
arguments are all constants becomes its value.
"""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, variables


def fold_constants(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with calls on constants evaluated; most models have none left after normalization."""
    flow = Dataflow.of(module)
    if any(isinstance(b.value, relax.Call) and not variables(b.value) for b in flow.bindings):
        return relax.transform.FoldConstant()(module)
    return module


def remove_identities(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module without operators that return their argument as it is."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        if _is_identity(binding):
            builder.values[binding.var] = builder.replaced(binding.value.args[0])
        else:
            builder.copy(binding)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _is_identity(binding: Binding) -> bool:
    if binding.operator in ("relax.reshape", "relax.astype"):
        return tensor_type(binding.value.args[0]) == tensor_type(binding.var)
    if binding.operator == "relax.permute_dims":
        axes = binding.value.attrs["axes"]
        return axes is not None and [int(a) for a in axes] == list(range(len(axes)))
    return False
