"""A hard-swish of vectors of float32: see `ops.QHardSwish`."""

from __future__ import annotations

import math
from typing import Any

from tvm.script import tirx as T

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib.vectors import lanes_of, splat
from pipeline.ops import QHardSwish


def hard_swished(x: Any, factor: Any, operator: QHardSwish, isa: InstructionSet) -> Any:
    """Return the function's values in steps of the result, without its zero point: int32.

    Args:
        x: a vector of float32.
        factor: as many.
        operator: the function.
        isa: the instruction set.
    """
    lanes = lanes_of(x)
    limited = isa.clipped(x, -3.0, 3.0) + splat(T.float32(3), lanes)
    bounded = x if operator.largest == math.inf else isa.clipped(x, None, operator.largest)
    q = isa.rounded(bounded * limited * factor)
    if operator.shift:
        q = q + isa.rounded(factor * splat(T.float32(operator.shift), lanes))
    if not operator.fraction_bits:
        return q
    return T.shift_right(q + splat(T.int32(operator.half), lanes), splat(T.int32(operator.fraction_bits), lanes))
