"""`Program`, what the stages pass on: a Relax module with the names that users know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.ir.preprocessing import ImagePreprocessing

if TYPE_CHECKING:
    # Only for the annotation: the runner uses TensorSpec in processes that don't load the compiler.
    import numpy.typing as npt
    import tvm


@dataclass(frozen=True)
class TensorSpec:
    """A model's input or output as users see it: with the ONNX model's name, axes and dtype.

    Example: `TensorSpec("x", (1, 3, 224, 224), "float32")`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """Return `x: 1x3x224x224 float32`."""
        return f"{self.name}: {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}"


@dataclass(frozen=True)
class SourceNode:
    """A node of the ONNX model, and the variables of the program that it became.

    Attributes:
        name: the node's name; many exporters leave it empty.
        operator: the ONNX operator, for example `Conv`.
        outputs: names of the node's outputs.
        variables: names of the program's variables that hold its results; empty if nothing of the node is left. Nodes
            that were fused share a variable.
    """

    name: str
    operator: str
    outputs: tuple[str, ...]
    variables: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Program:
    """A Relax program whose function `main` takes the inputs in order and returns a tensor, or a tuple of outputs.

    Attributes:
        module: the IRModule. Its variables carry the ONNX names of the tensors that they hold.
        inputs: the model's inputs, in order, with their ONNX names.
        outputs: the model's outputs, in order, with their ONNX names.
        name: the model's name, for files and reports.
        source_sha256: hexadecimal SHA-256 of the ONNX file (external data included); if inputs are fixed or the model
            is cut, of that and their values or the new outputs' names.
        nodes: the ONNX model's nodes, in order, for options that name them; not stored in libraries.
        preprocessing: how pictures become the input; None if that isn't known.
        fixed: inputs of the ONNX model that the program doesn't have, and the values that they always have.
    """

    module: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    name: str
    source_sha256: str
    nodes: tuple[SourceNode, ...] = ()
    preprocessing: ImagePreprocessing | None = None
    fixed: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return name, inputs, outputs and the number of operators."""
        # Imported here, as the runner imports this module but has no compiler.
        from pipeline.ir.dataflow import Dataflow

        count = len(Dataflow.of(self.module).bindings)
        return f"<Program {self.name}: {count} operators\n{summary_of(self.inputs, self.outputs)}>"

    def with_outputs(self, names: Sequence[str]) -> Program:
        """Return the program with other outputs: the named variables of its module."""
        return replace(self, outputs=()).with_more_outputs(names)

    def with_more_outputs(self, names: Sequence[str]) -> Program:
        """Return the program with more outputs after its own: the named variables of its module."""
        # Imported here, as the runner imports this module but has no compiler.
        from pipeline.ir.bridge import tensor_type
        from pipeline.ir.dataflow import Dataflow, DataflowBuilder

        flow = Dataflow.of(self.module)
        by_name = {v.name: v for v in (*flow.params, *(b.var for b in flow.bindings))}
        named, own = [by_name[n] for n in names], flow.outputs[: len(self.outputs)]
        builder = DataflowBuilder(self.module)
        for binding in flow.bindings:
            builder.copy(binding)
        module = builder.finish([builder.replaced(o) for o in (*own, *named)])
        types = [tensor_type(v) for v in named]
        added = tuple(TensorSpec(n, t.shape, t.dtype) for n, t in zip(names, types, strict=True))
        return replace(self, module=module, outputs=(*self.outputs, *added))


def summary_of(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Return the inputs and outputs as text, in two indented lines."""
    return f"  inputs   {', '.join(map(str, inputs))}\n  outputs  {', '.join(map(str, outputs))}"
