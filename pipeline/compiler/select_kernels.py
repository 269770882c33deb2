"""SelectKernels: each of our operators becomes a call of a TIR kernel.

Before -> after: `y = qnn.conv2d(x, w, b, m)` becomes `y = call_tir(conv2d_u8s8_3x3_64x64__avx2, (x, packed w, ...))`.
If a library is made, the kernel gets the offsets of packed constants in the library instead of the constants. Equal
operators share one kernel; those that differ in numbers only, its code (`shared_code`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from pipeline.compiler.records import kernel_attributes
from pipeline.compiler.shared_code import with_shared_code
from pipeline.ir.bridge import operator_of, tensor_type, to_relax_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant
from pipeline.ir.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.machine import Machine
from pipeline.kernels.naming import kernel_name
from pipeline.kernels.operation import Kernel, Operation
from pipeline.library.constants import ALIGNMENT, ConstantPool, constant_pointer


def select_kernels(module: tvm.IRModule, machine: Machine, pool: ConstantPool | None) -> tvm.IRModule:
    """Return the module with our operators replaced by kernels for a machine; see the module's docstring.

    Args:
        module: the program, with constants as arguments of operators.
        machine: what kernels are generated for.
        pool: collects the kernels' constants, for a library; kernels get their offsets in it. If it is None, constants
            stay arguments, as for programs that run in this process.
    """
    flow = Dataflow.of(module)
    operations = [(b, operation) for b in flow.bindings if (operation := as_operation(b)) is not None]
    # Generating a kernel takes some milliseconds, packing its weights up to some tens. Recurrent layers and attention
    # have many equal operators.
    equal = _equal_operations([operation for _, operation in operations])
    made: dict[int, Kernel] = {}
    selected: dict[relax.Var, _Selected] = {}
    for i, (binding, operation) in enumerate(operations):
        entry = registry.select(operation, machine)
        kernel = made.get(equal.get(i, -1)) or entry.generate(operation, machine)
        if i in equal:
            made[equal[i]] = kernel
        arguments = [binding.value.args[a] if isinstance(a, int) else make_constant(a) for a in kernel.arguments]
        types = [tensor_type(a) for a in arguments]
        constants = {i: value for i, a in enumerate(arguments) if (value := constant(a)) is not None}
        if pool is not None:
            for i, value in constants.items():
                arguments[i] = tirx.IntImm("int64", pool.add(value))
        func = _with_shapes(kernel.func, [*types, operation.output], set() if pool is None else constants.keys())
        attributes = kernel_attributes(operation, sum(value.nbytes for value in constants.values()))
        name = kernel_name(operation, entry.variant, machine.isa)
        selected[binding.var] = _Selected(name, func.with_attrs(attributes), tuple(arguments), operation.output)
    shared = iter(with_shared_code([(each.name, each.func) for each in selected.values()]))
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        if binding.var not in selected:
            builder.copy(binding)
            continue
        kernel_call, (func, numbers) = selected[binding.var], next(shared)
        # An offset into the pool isn't a value of the program.
        arguments = [a if isinstance(a, tirx.IntImm) else builder.replaced(a) for a in kernel_call.arguments]
        global_var = builder.add_function(kernel_call.name, func)
        call = relax.call_tir(global_var, [*arguments, *numbers], to_relax_type(kernel_call.output))
        builder.values[binding.var] = builder.emit(call, binding.var.name)
    return builder.finish()


@dataclass(frozen=True)
class _Selected:
    """A call of a kernel.

    Attributes:
        name: the kernel's, without its number.
        func: the kernel.
        arguments: of the call, without the output; tensors are those of the program before.
        output: what the kernel returns.
    """

    name: str
    func: tirx.PrimFunc
    arguments: tuple[Any, ...]
    output: TensorType


def as_operation(binding: Binding) -> Operation | None:
    """Return the operation that a kernel has to do for a binding; None if it isn't one of our operators."""
    operator = operator_of(binding.value)
    if operator is None:
        return None
    values = {i: constant(a) for i, a in enumerate(binding.value.args)}
    return Operation(
        operator=operator,
        inputs=tuple(tensor_type(a) for a in binding.value.args),
        output=tensor_type(binding.var),
        constants={i: v for i, v in values.items() if v is not None},
    )


def _equal_operations(operations: Sequence[Operation]) -> dict[int, int]:
    """Return the index of the first one that it equals, for each operation that others equal."""
    alike = Counter((o.operator, o.inputs) for o in operations)
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, o in enumerate(operations):
        if alike[o.operator, o.inputs] > 1:
            digests = tuple((k, hashlib.sha256(value.tobytes()).digest()) for k, value in o.constants.items())
            groups.setdefault((o.operator, o.inputs, *digests), []).append(i)
    return {i: members[0] for members in groups.values() if len(members) > 1 for i in members}


def _with_shapes(func: tirx.PrimFunc, types: Sequence[TensorType], pooled: Set[int]) -> tirx.PrimFunc:
    """Return a kernel whose parameters have the shapes of their tensors, and whose flat buffers are views of these.

    Parameters in `pooled`, by index, become offsets into the pool of constants.
    """
    params: list[tirx.Var] = []
    views: list[tirx.Stmt] = []
    for i, (type_, flat) in enumerate(zip(types, func.params, strict=True)):
        if i in pooled:
            params.append(tirx.Var(f"{flat.name}_offset", "int64"))
            views.append(constant_pointer(f"{flat.name}_data", type_.dtype, params[i]))
            data = views[-1].var
        else:
            params.append(_at_any_offset(type_, flat.name))
            first = tirx.address_of(params[i][[0] * len(type_.shape)])
            views.append(tirx.Bind(tirx.Var(f"{flat.name}_data", first.ty), first))
            data = views[-1].var
        views.append(tirx.DeclBuffer(flat, data=data))
    return tirx.PrimFunc(params, tirx.SeqStmt([*views, func.body]), func.ret_type, func.attrs)


def _at_any_offset(type_: TensorType, name: str) -> tirx.Buffer:
    """Return a parameter that accepts tensors at any multiple of `ALIGNMENT` in their storage."""
    start, unit = tirx.Var(f"{name}_start", "int32"), ALIGNMENT // np.dtype(type_.dtype).itemsize
    return tirx.decl_buffer(type_.shape, type_.dtype, name, elem_offset=start, offset_factor=unit)
