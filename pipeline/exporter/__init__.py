"""A quantized model as an ONNX file, for other runtimes and for tools that show graphs.

What is integers in our programs is written as ONNX has it: float operators between `QuantizeLinear` and
`DequantizeLinear` ("QDQ"), with int8 weights, one scale per output channel, and int32 biases.
"""

from __future__ import annotations

import onnx

from pipeline.exporter.converters import convert
from pipeline.exporter.graph import Graph
from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.table import CalibrationTable


def to_onnx(program: Program, int8: Program, annotation: Annotation, table: CalibrationTable) -> onnx.ModelProto:
    """Return a quantized model as QDQ ONNX.

    Args:
        program: the float program that was realized.
        int8: what it was realized as.
        annotation: what became int8, as `realize` returns it.
        table: scales and zero points.

    Raises:
        ModelError: an operator has no form in ONNX yet.
    """
    return Graph(program, int8, annotation, table).write(convert)
