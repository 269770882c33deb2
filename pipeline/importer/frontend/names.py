"""NameTensors: every variable gets the name of the ONNX tensor that it holds.

Before -> after: `lv3 = permute_dims(x); lv4 = relu(lv3)`, where ONNX calls lv4 `y`, becomes
`y.permute_dims = permute_dims(x); y = relu(y.permute_dims)`. An intermediate result, which isn't a tensor of the ONNX
model, gets the name of the next ONNX tensor with the operator's name added. If the operator that computes an ONNX
tensor only moves values, the operator before it, which computes the values, gets the tensor's name instead. These
names are used in annotations, calibration tables, reports and errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import tvm
from tvm import relax

from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder

_MOVEMENTS = frozenset(f"relax.{name}" for name in ("expand_dims", "permute_dims", "reshape", "squeeze"))


def name_tensors(module: tvm.IRModule, names: Mapping[relax.Var, str]) -> tvm.IRModule:
    """Return the module with its variables renamed; see the module's docstring.

    Args:
        module: the module that TVM's importer returns.
        names: the ONNX names of variables; some may be missing.
    """
    flow = Dataflow.of(module)
    chosen = _names(flow, names)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        builder.values[binding.var] = builder.emit(builder.replaced(binding.value), chosen[binding.var])
    return builder.finish()


def _names(flow: Dataflow, names: Mapping[relax.Var, str]) -> dict[relax.Var, str]:
    chosen: dict[relax.Var, str] = {}
    known = {v: n for v, n in names.items() if v not in flow.params}
    taken = {p.name for p in flow.params} | set(names.values())
    following = "result"
    for binding in reversed(flow.bindings):
        following = known.get(binding.var, following)
        source = binding.value.args[0] if binding.operator in _MOVEMENTS else None
        if source in flow.producers and source not in known and len(flow.users[source]) == 1 and binding.var in known:
            known[source] = known.pop(binding.var)
        if binding.var in known:
            chosen[binding.var] = following
            continue
        chosen[binding.var] = next(n for n in _numbered(f"{following}.{_step(binding)}") if n not in taken)
        taken.add(chosen[binding.var])
    return chosen


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}{i}" for i in itertools.count(2))


def _step(binding: Binding) -> str:
    """Return a short name for what a binding computes."""
    return "parts" if isinstance(binding.var.ty, relax.TupleType) else binding.operator.rpartition(".")[2].lower()
