"""SelectKernels: every dialect operator becomes a call of a TIR kernel.

Before -> after: `y = qnn.conv2d(x, w, b, m)` becomes `y = call_tir(qnn_conv2d_vpdpbusd, (x, packed w, ...))`. Equal
operators share one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax, tirx

from pipeline.compilation.records import work_attributes
from pipeline.dialect.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant
from pipeline.dialect.operators import describe, tensor_type, to_relax_type
from pipeline.dialect.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.operation import Operation


def select_kernels(module: tvm.IRModule, isa: InstructionSet) -> tvm.IRModule:
    """Return the module with dialect operators replaced by kernels for `isa`; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        operation = as_operation(binding)
        if operation is None:
            builder.copy(binding)
            continue
        row = registry.select(operation, isa)
        kernel = row.generate(operation, isa)
        arguments = [
            builder.replaced(binding.value.args[a]) if isinstance(a, int) else make_constant(a)
            for a in kernel.arguments
        ]
        types = [tensor_type(a) for a in arguments]
        func = _with_shapes(kernel.func, [*types, operation.output]).with_attrs(work_attributes(operation))
        global_var = builder.add_function(row.name, func)
        call = relax.call_tir(global_var, arguments, to_relax_type(operation.output))
        builder.values[binding.var] = builder.emit(call, binding.var.name)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def as_operation(binding: Binding) -> Operation | None:
    """Return what a binding asks of a kernel; None if it isn't a dialect operator."""
    attrs = describe(binding.value)
    if attrs is None:
        return None
    values = {i: constant(a) for i, a in enumerate(binding.value.args)}
    return Operation(
        attrs=attrs,
        inputs=tuple(tensor_type(a) for a in binding.value.args),
        output=tensor_type(binding.var),
        constants={i: v for i, v in values.items() if v is not None},
    )


def _with_shapes(func: tirx.PrimFunc, types: Sequence[TensorType]) -> tirx.PrimFunc:
    """Return a kernel whose parameters have their tensors' shapes; its flat buffers become views of them."""
    params = [tirx.decl_buffer(t.shape, t.dtype, flat.name) for t, flat in zip(types, func.params, strict=True)]
    views = [tirx.DeclBuffer(flat, data=param.data) for param, flat in zip(params, func.params, strict=True)]
    return tirx.PrimFunc(params, tirx.SeqStmt([*views, func.body]), func.ret_type, func.attrs)
