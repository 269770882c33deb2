"""FoldConstants: a call whose arguments are all constants becomes its value."""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline.ir.dataflow import Dataflow, variables


def fold_constants(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with calls on constants evaluated; most models have none left after normalization."""
    flow = Dataflow.of(module)
    if any(isinstance(b.value, relax.Call) and not variables(b.value) for b in flow.bindings):
        return relax.transform.FoldConstant()(module)
    return module
