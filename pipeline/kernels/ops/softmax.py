"""`qnn.softmax`: rows of codes, with exponentials from a table.

for task of some rows, in parallel:
for row:
largest code                           in vectors
exponential of each, and their sum     one load from the table each
results                                in vectors
"""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.requantize import rounded, saturate
from pipeline.kernels.lib.vectors import folded, register_buffer, span, splat, vector_type
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.registry import kernel
from pipeline.ops import QSoftmax


@kernel(QSoftmax, isa="portable")
def qsoftmax(operation: Operation, isa: InstructionSet) -> Kernel:
    """The exponentials of one row wait in memory for their sum."""
    attrs, size = operation.attrs, operation.output.size
    if not isinstance(attrs, QSoftmax):
        raise TypeError(f"Expected qnn.softmax, got {attrs}")
    length = operation.output.shape[-1]
    rows, run = size // length, Run.of(length, 4 * isa.lanes)
    per_task = -(-rows // MAX_TASKS)
    everything = span(0, run.width)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "uint8"))
        table = T.arg("table", T.buffer((256,), "int32"))
        y = T.arg("y", T.buffer((size,), "uint8"))
        tasks = -(-rows // per_task)
        with loop_for(size, tasks)(tasks) as task:
            exponentials = T.alloc_buffer((length,), "int32")
            with T.serial(T.min(per_task, rows - task * per_task)) as r:
                start = (task * per_task + r) * length
                largest = register_buffer(run.width, "uint8")
                T.buffer_store(largest, splat(T.uint8(0), run.width), [everything])
                with T.serial(run.steps) as step:
                    codes = x[span(start + run.start(0, step), run.width)]
                    T.buffer_store(largest, T.max(largest[everything], codes), [everything])
                top, total = register_buffer(1, "int32"), register_buffer(1, "int32")
                T.buffer_store(top, T.cast(folded(largest[everything], T.max), "int32"), [0])
                T.buffer_store(total, T.int32(0), [0])
                with T.serial(length) as i:
                    T.buffer_store(exponentials, table[top[0] - T.cast(x[start + i], "int32")], [i])
                    T.buffer_store(total, total[0] + exponentials[i], [0])
                scale = register_buffer(1, "float32")
                T.buffer_store(scale, T.float32(attrs.multiplier) / T.cast(total[0], "float32"), [0])
                with T.serial(run.steps) as step:
                    first = run.start(0, step)
                    values = T.cast(exponentials[span(first, run.width)], vector_type("float32", run.width))
                    result = saturate(rounded(values * splat(scale[0], run.width)), attrs, isa)
                    T.buffer_store(y, result, [span(start + first, run.width)])
    return Kernel(builder.get(), (0, 1))
