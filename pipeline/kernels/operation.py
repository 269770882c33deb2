"""The operation that a kernel is generated for, and the kernel that is returned."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from tvm import tirx

from pipeline.ir.types import TensorType
from pipeline.ops import Operator, QDense

INT4_LOWEST, INT4_HIGHEST = -8, 7


@dataclass(frozen=True)
class Operation:
    """One operator of a program, as generators of kernels see it.

    Attributes:
        operator: which operator, with its attributes.
        inputs: types of all tensor arguments, in order.
        output: type of the result.
        constants: values of those arguments that are known at compile time, by argument index. Weights, bias,
            multipliers and tables always are.
    """

    operator: Operator
    inputs: tuple[TensorType, ...]
    output: TensorType
    constants: Mapping[int, npt.NDArray[Any]]

    @functools.cached_property
    def has_int4_weights(self) -> bool:
        """Whether this is an integer dense layer all of whose weights have 4 bits, so that they are stored in these."""
        if not isinstance(self.operator, QDense):
            return False
        weight = self.constants[1]
        return bool(weight.min() >= INT4_LOWEST and weight.max() <= INT4_HIGHEST)


@dataclass(frozen=True)
class Kernel:
    """A TIR function that computes an operation.

    Attributes:
        func: a PrimFunc over flat or shaped buffers: first one buffer for each of `arguments`, last the output. Flat
            buffers must have as many elements as the tensor they are called with.
        arguments: for each input buffer either an index into the operation's arguments, or a constant array that
            replaces it (packed weights, permuted scales).
    """

    func: tirx.PrimFunc
    arguments: tuple[int | npt.NDArray[Any], ...]
