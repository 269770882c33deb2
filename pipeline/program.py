"""What travels between the stages: a Relax program, with what its users call its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Only for the annotation: the runner uses TensorSpec in processes that don't load the compiler.
    import tvm


@dataclass(frozen=True)
class TensorSpec:
    """A model input or output as its user sees it: ONNX name, shape, layout and dtype.

    Example: `TensorSpec("x", (1, 3, 224, 224), "float32")`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Program:
    """A Relax program whose function `main` takes the inputs in order and returns a tensor, or a tuple of outputs.

    Attributes:
        module: the IRModule. Its variables carry the ONNX names of the tensors that they hold.
        inputs: the model's inputs, in order, with their ONNX names.
        outputs: the model's outputs, in order, with their ONNX names.
        name: the model's name, for files and reports.
        source_sha256: hexadecimal SHA-256 of the ONNX file (external data included).
    """

    module: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    name: str
    source_sha256: str
