"""TVM's own ONNX converters, for what ours leave to them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from pipeline.errors import ModelError
from pipeline.ir.tvm_private.onnx_frontend import tvm_converter


def convert_by_tvm(
    op_type: str, bb: Any, inputs: Sequence[relax.Expr | None], attr: Mapping[str, Any], params: Any
) -> relax.Expr:
    """Return what TVM's own converter makes of a node, its type inferred.

    Raises:
        ModelError: it can't take the node.
    """
    converter = tvm_converter(op_type, attr["tvm_custom"]["opset"])
    try:
        return bb.normalize(converter(bb, inputs, attr, params))
    except ModelError:
        raise
    except Exception as error:  # TVM says "not supported" by anything from KeyError to InternalError
        raise ModelError(f"this form of it isn't supported ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return what an exception of TVM's says, without what it says of itself: sources, notes on printing."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = " ".join(line for line in lines if line and not line.startswith(("#", "File ", "Traceback", "at ", "[")))
    # What follows is the program, as TVM prints it, which says nothing to those who haven't written it.
    told = re.split(r"metadata\[|\bR\.|\bI\.|However, $", told)[0].strip(" ,:")
    return f"{type(error).__name__}: {told[:300]}" if told else type(error).__name__
