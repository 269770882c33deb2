"""TVM's own ONNX converters, for operators, or forms of operators, that ours don't convert."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from pipeline.errors import ModelError
from pipeline.ir.tvm_private.onnx_frontend import tvm_converter


def convert_by_tvm(
    op_type: str, builder: Any, inputs: Sequence[relax.Expr | None], attributes: Mapping[str, Any], scope: Any
) -> relax.Expr:
    """Return the Relax expression that TVM's own converter makes of a node, with its type inferred.

    Args:
        op_type: the ONNX operator.
        builder: the BlockBuilder that the converter writes to.
        inputs: the node's inputs; None for missing optional ones.
        attributes: the node's attributes by name, as TVM's importer reads them.
        scope: the graph's tensors, see `GraphImporter.scope`.

    Raises:
        ModelError: TVM can't convert the node.
    """
    converter = tvm_converter(op_type, attributes["tvm_custom"]["opset"])
    try:
        return builder.normalize(converter(builder, inputs, attributes, scope))
    except ModelError:
        raise
    except Exception as error:  # TVM's converters raise anything from KeyError to InternalError for unsupported nodes.
        raise ModelError(f"this form of the operator isn't supported ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the message of one of TVM's exceptions, without source locations and dumps of the program."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = " ".join(line for line in lines if line and not line.startswith(("#", "File ", "Traceback", "at ", "[")))
    # A dump of the Relax program follows, which users can't know.
    told = re.split(r"metadata\[|\bR\.|\bI\.|However, $", told)[0].strip(" ,:")
    return f"{type(error).__name__}: {told[:300]}" if told else type(error).__name__
