"""The constants of integer convolutions and dense layers, before they are packed for a loop nest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.lib.requantize import FLOAT_OFFSET_BITS, results_are_short, sum_bounds, sums_are_floats
from pipeline.kernels.operation import Operation
from pipeline.ops import QConv2d, QConv2dAdd, QConv2dHardSwish, QConv2dLookup, QDense, QHardSwish

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class IntegerConstants:
    """The constants of an integer convolution or dense layer; its O output channels are their first axis.

    Attributes:
        operator: the operator.
        weight: [O, ...] int8.
        start: [O] int32, what accumulators begin with.
        multiplier: [O] float32.
        floats: whether accumulators are the bits of float32; see `requantize.sums_are_floats`.
        factor: [O] float32, of `qnn.conv2d_hard_swish`; None of others.
        function: what `factor` is for.
        table: [256] uint8, which results are looked up in; None if they aren't.
        added_dtype: of the tensor that is added to the result; "" if there is none.
        short: whether all sums fit int16 once they are scaled, rounded and shifted by the zero point.
    """

    operator: QConv2d | QDense
    weight: Array
    start: Array
    multiplier: Array
    floats: bool
    table: Array | None
    added_dtype: str = ""
    short: bool = False
    factor: Array | None = None
    function: QHardSwish | None = None

    def packed_scales(self, pack: Callable[[Array], Array]) -> Array:
        """Return the multipliers, and behind them all factors, if there are any, each packed: flat."""
        return np.concatenate([pack(self.multiplier), *(() if self.factor is None else (pack(self.factor),))])

    @classmethod
    def of(cls, operation: Operation, *, as_floats: bool, activation_offset: int = 0) -> IntegerConstants:
        """Return an operation's constants.

        Args:
            operation: an integer convolution or dense layer.
            as_floats: whether accumulators may be the bits of float32, if the constants allow it.
            activation_offset: what is subtracted from activations before they are multiplied.
        """
        operator, bytes_only = operation.operator, operation.inputs[0].dtype != "int16"
        if not isinstance(operator, QConv2d | QDense):
            raise TypeError(f"Expected qnn.conv2d or qnn.dense, got {operator}")
        weight, bias, multiplier = (operation.constants[i] for i in (1, 2, 3))
        start = bias_of_bytes = folded_bias(bias, weight, operator.input_zero_point)
        table = operation.constants[4] if isinstance(operator, QConv2dLookup) else None
        factor = operation.constants[4] if isinstance(operator, QConv2dHardSwish) else None
        short = bytes_only and factor is None and results_are_short(weight, start, multiplier)
        floats = as_floats and bytes_only and sums_are_floats(weight, start, multiplier)
        if floats:
            start = start + np.int32(FLOAT_OFFSET_BITS)
        if activation_offset:
            start = folded_bias(start, weight, -activation_offset)
        added_dtype = operation.inputs[-1].dtype if isinstance(operator, QConv2dAdd) else ""
        function = (
            _bounded(operator, weight, bias_of_bytes, multiplier) if isinstance(operator, QConv2dHardSwish) else None
        )
        return cls(operator, weight, start, multiplier, floats, table, added_dtype, short, factor, function)


def _bounded(operator: QConv2dHardSwish, weight: Array, bias: Array, multiplier: Array) -> QHardSwish:
    """Return a convolution's function, without a bound that no sum of uint8 inputs exceeds."""
    highest = sum_bounds(weight, bias)[1] * multiplier.astype("float64")
    # Rounding to float32 adds less than a thousandth.
    within = bool((highest * 1.001 < operator.largest).all())
    return dataclasses.replace(operator.function, largest=math.inf) if within else operator.function


def folded_bias(bias: Array, weight: Array, zero_point: int) -> Array:
    """Return an int32 bias that includes the zero point, so that kernels needn't subtract it from x at run time.

    `sum((x - zero_point) * w) = sum(x * w) - zero_point * sum(w)`.
    """
    sums = weight.reshape(weight.shape[0], -1).sum(axis=1, dtype="int64")
    return np.asarray(bias.astype("int64") - zero_point * sums).astype("int32")
