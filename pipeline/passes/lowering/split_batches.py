"""SplitBatches: successive layers with large activations run image by image, to keep those in the second-level cache.

Before -> after, for the images x[n] of a batch and successive layers f:

    `y = f(x)` becomes `y_n = f(x[n])` for each n, one image after the other, and `y = nn.stack(y_0, y_1, ...)`.

Layers that run on the whole batch read their weights once for all images, but the batch's activations, which one layer
writes and the next one reads, may not fit into the cache. Early layers of most networks have large activations and few
weights, late ones the opposite. The pass compares, per image, how many bytes are read from or written to memory beyond
the second-level cache, and chooses the successive layers that save the most.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_operands, tensor_type, tensor_types
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, substitute


@dataclass(frozen=True)
class _Batch:
    """A program that runs on a batch.

    Attributes:
        flow: the program.
        size: number of images in the batch.
        l2_bytes: size of the second-level cache, in bytes.
    """

    flow: Dataflow
    size: int
    l2_bytes: int

    def image_bytes(self, var: relax.Expr) -> int:
        """Return the bytes of a tensor that belong to one image."""
        return sum(t.nbytes for t in tensor_types(var)) // self.size

    def inputs_of(self, first: int, last: int) -> list[relax.Var]:
        """Return the tensors that the bindings first to last - 1 read from earlier ones."""
        inside = self.flow.bindings[first:last]
        made = {b.var for b in inside}
        return list(dict.fromkeys(v for b in inside for v in b.reads if v not in made))

    def outputs_of(self, first: int, last: int) -> list[relax.Var]:
        """Return the results of the bindings first to last - 1 that later ones read, or that are outputs."""
        read = {v for b in self.flow.bindings[last:] for v in b.reads} | set(self.flow.outputs)
        return [b.var for b in self.flow.bindings[first:last] if b.var in read]

    def best_run(self) -> tuple[int, int]:
        """Return which bindings to run image by image, as (first, last): first to last - 1; (0, 0) for none."""
        bindings = self.flow.bindings
        weights, activations = [self._weights(b) for b in bindings], [self._activations(b) for b in bindings]
        apart = [w + (a if a > self.l2_bytes else 0) for w, a in zip(weights, activations, strict=True)]
        together = [
            w / self.size + (a if a * self.size > self.l2_bytes else 0)
            for w, a in zip(weights, activations, strict=True)
        ]
        gains = [t - a for t, a in zip(together, apart, strict=True)]
        best, most = (0, 0), 0.0
        for first in range(len(bindings)):
            gain = 0.0
            for last in range(first + 1, len(bindings) + 1):
                if not self._splits(bindings[last - 1]):
                    break
                gain += gains[last - 1]
                if gain <= most:
                    continue
                moved = [*self.inputs_of(first, last), *self.outputs_of(first, last)]
                left = gain - 2 * sum(self.image_bytes(v) for v in moved)
                if left > most:
                    best, most = (first, last), left
        return best

    def _weights(self, binding: Binding) -> int:
        args = binding.value.args if isinstance(binding.value, relax.Call) else ()
        return sum(tensor_type(a).nbytes for a in args if constant(a) is not None)

    def _activations(self, binding: Binding) -> int:
        return sum(self.image_bytes(v) for v in {binding.var, *binding.reads})

    def _splits(self, binding: Binding) -> bool:
        """Return whether image n of a binding's result depends on image n of its activations only."""
        if not all(isinstance(v.ty, relax.TensorType) for v in (binding.var, *binding.reads)):
            return False
        types = [tensor_type(v) for v in binding.reads]
        if any(len(t.shape) < 2 or t.shape[0] != self.size for t in (tensor_type(binding.var), *types)):
            return False
        operands = tensor_operands(binding.value)
        constants = {i for i, operand in enumerate(operands) if constant(operand) is not None}
        return ops.traits_of(binding).splits_batch([tensor_type(o) for o in operands], constants)


def split_batches(module: tvm.IRModule, l2_bytes: int) -> tvm.IRModule:
    """Return the module with some layers run image by image; see the module's docstring.

    Args:
        module: a program after all passes that fuse operators.
        l2_bytes: size of a core's second-level cache, in bytes.
    """
    flow = Dataflow.of(module)
    sizes = {tensor_type(p).shape[:1] for p in flow.params}
    if len(sizes) != 1 or (size := sum(*sizes)) < 2:
        return module
    batch = _Batch(flow, size, l2_bytes)
    first, last = batch.best_run()
    builder = DataflowBuilder(module)
    for binding in flow.bindings[:first]:
        builder.copy(binding)
    if first < last:
        results = [_run_image(builder, batch, first, last, image) for image in range(size)]
        for var, parts in zip(batch.outputs_of(first, last), zip(*results, strict=True), strict=True):
            builder.values[var] = builder.emit(make_call(ops.Stack(size), *parts), var.name)
    for binding in flow.bindings[last:]:
        builder.copy(binding)
    return builder.finish()


def _run_image(builder: DataflowBuilder, batch: _Batch, first: int, last: int, image: int) -> list[relax.Expr]:
    """Emit the bindings first to last - 1 for one image, and return its `outputs_of` them."""
    values: dict[relax.Var, relax.Expr] = {}
    for var in batch.inputs_of(first, last):
        part = relax.op.strided_slice(builder.replaced(var), [0], [image], [image + 1])
        values[var] = builder.emit(part, f"{var.name}.image{image}")
    for binding in batch.flow.bindings[first:last]:
        value = substitute(binding.value, values)
        if binding.operator == "relax.reshape":
            value = relax.op.reshape(value.args[0], [1, *tensor_type(binding.var).shape[1:]])
        values[binding.var] = builder.emit(value, f"{binding.var.name}.image{image}")
    return [values[v] for v in batch.outputs_of(first, last)]
