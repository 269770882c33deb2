"""What our ONNX converters have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend as tvm_onnx

Inputs = Sequence[relax.Expr | None]
NHWC = [0, 2, 3, 1]
NCHW = [0, 3, 1, 2]


class Fallback(tvm_onnx.OnnxOpConverter):
    """Base of converters that leave what they can't do to TVM's."""

    op_type: str

    @classmethod
    def _stock(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        converter = tvm_onnx._get_convert_map()[cls.op_type].get_converter(attr["tvm_custom"]["opset"])
        return converter(bb, inputs, attr, params)
