"""The epilogue of a kernel, applied to finished accumulators before they are stored: requantization or activation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.isa.hard_swish import hard_swished, has_summand, summand_of, without_added
from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.buffers import stack_buffer
from pipeline.kernels.lib.requantize import FLOAT_OFFSET
from pipeline.kernels.lib.vectors import (
    as_stored,
    fused_multiply_add,
    lanes_of,
    span,
    splat,
    vector_type,
    with_other_sign,
)
from pipeline.ops import Add, Conv2d, Conv2dAdd, Dense, QConv2d, QConv2dAdd, QDense, QHardSwish

MOST = 64
"""So many kernels that were generated are kept, those that were asked for last."""


@dataclass(frozen=True)
class Epilogue:
    """The last step of a kernel.

    Attributes:
        dtype: of the output.
        finish: from vectors of accumulators and, for each of `scales`, as many of constants, TIR expressions, to one
            vector of outputs. It takes up to `together` vectors.
        together: how many vectors are finished together best.
        add: adds a vector of another tensor's outputs to one of this; None if there is nothing to add.
        added_dtype: of that other tensor.
        halo_value: what a halo around the output is filled with.
        scales: how many float32 constants there are for each channel: a multiplier, and a factor if that is 2; see
            `IntegerConstants.packed_scales`.
        addends: whether `finish` also takes what `Addends` loads.
        summand: from a vector of a function's factors to what the function adds, which `Addends` can load as well, as
            float32; None if there is none.
        offset: a number that `Addends` loads as well, in a vector; None if there is none.
    """

    dtype: str
    finish: Callable[..., Any]
    together: int = 1
    add: Callable[[Any, Any], Any] | None = None
    added_dtype: str = ""
    halo_value: float = 0
    scales: int = 1
    addends: bool = False
    summand: Callable[[Any], Any] | None = None
    offset: float | None = None


def requantize(
    constants: IntegerConstants,
    isa: InstructionSet,
    *,
    interleaved: bool = False,
    kept: bool = True,
    loads_addends: bool = False,
) -> Epilogue:
    """Return the last step of an integer operator: to uint8, or to int16 or float32 if `output_dtype` says so.

    It is the same object wherever it consists of the same instructions, so that kernels needn't be generated again.

    Args:
        constants: of the operator.
        isa: the instruction set.
        interleaved: accumulators come four vectors at a time, as for `InstructionSet.saturate_interleaved`.
        kept: whether multipliers are in registers, where several vectors of accumulators share them.
        loads_addends: whether the kernel loads addends, if the epilogue wants them.
    """
    table = None if constants.table is None else tuple(constants.table.tolist())
    added, function = constants.added_dtype, constants.function
    wanted = _Requantization(constants.operator, constants.floats, constants.short, added, table, function)
    stores_bytes = constants.operator.output_dtype in ("uint8", "int8")
    addends = loads_addends and constants.floats and stores_bytes
    return _requantize(wanted, isa, interleaved, kept, addends)


class Addends:
    """What an epilogue adds to products of a block's accumulators, on the stack, from where it is loaded each time.

    Behind it stand the function's summands, if the kernel gives its factors, and the epilogue's offset, which LLVM
    would otherwise keep in a register through all loops.
    """

    def __init__(self, epilogue: Epilogue, isa: InstructionSet, vectors: int) -> None:
        self._epilogue, self._isa, self._vectors = epilogue, isa, vectors
        self._summands = False
        self._buffer = stack_buffer((2 * vectors + 1) * isa.lanes, "float32")

    def prepare(self, multipliers: Sequence[Any], factors: Sequence[Any] = ()) -> None:
        """Compute them for a block's vectors of multipliers, and of factors."""
        lanes, offset, summand = self._isa.lanes, self._epilogue.offset, self._epilogue.summand
        values = [m * splat(T.float32(-FLOAT_OFFSET), lanes) for m in multipliers]
        if summand is not None and factors:
            self._summands = True
            values += [summand(factor) for factor in factors]
        if offset is not None:
            values.append(splat(T.float32(offset), lanes))
        for v, value in enumerate(values):
            T.buffer_store(self._buffer, value, [span(v * lanes, lanes)])

    def loads(self, runs: Iterable[tuple[int, int]], sums: Sequence[Any] = ()) -> Callable[..., dict[str, Any]]:
        """Return a function from runs to further arguments of the epilogue's `finish`, for a tile.

        Args:
            runs: the runs of neighbouring vectors that it will get: the first one's number, and how many, at most four.
            sums: int32 vectors, after which they are loaded.
        """
        isa, none = self._isa, T.int64(0)
        starts = {"addends": 0, **({"summands": self._vectors} if self._summands else {})}
        streams = {
            name: {(first, count): isa.stream(self._buffer, (start + first) * isa.lanes) for first, count in runs}
            for name, start in starts.items()
        }
        offset = {}
        for stream in (stream for each in streams.values() for stream in each.values()):
            stream.wait(sums)
        if self._epilogue.offset is not None:
            stream = isa.stream(self._buffer, self._vectors * isa.lanes)
            stream.wait(sums)
            offset = {"offset": next(stream.take(1))}

        def load(runs: Sequence[tuple[int, int]]) -> dict[str, Any]:
            taken = {n: [v for run in runs for v in each[run].take(run[1], none)] for n, each in streams.items()}
            return {**taken, **offset}

        return load


@dataclass(frozen=True)
class _Requantization:
    """What the instructions depend on; see `IntegerConstants`. The table's values are numbers."""

    operator: QConv2d | QDense
    floats: bool
    short: bool
    added_dtype: str
    table: tuple[int, ...] | None
    function: QHardSwish | None


@functools.lru_cache(maxsize=MOST)
def _requantize(
    wanted: _Requantization, isa: InstructionSet, interleaved: bool, kept: bool, loads_addends: bool
) -> Epilogue:
    operator, added_dtype, function = wanted.operator, wanted.added_dtype, wanted.function
    table = None if wanted.table is None else np.array(wanted.table, "uint8")
    scaled = _scaled
    if wanted.floats:
        scaled = _scaled_float if kept else _scaled_difference
    if operator.output_dtype == "float32":

        def scale(accumulators: Sequence[Any], multipliers: Sequence[Any]) -> Any:
            return scaled(accumulators[0], multipliers[0])

        return Epilogue("float32", scale)
    if operator.output_dtype == "int16":

        def narrow(accumulators: Sequence[Any], multipliers: Sequence[Any]) -> Any:
            return saturate(isa.rounded(scaled(accumulators[0], multipliers[0])), operator, isa)

        return Epilogue("int16", narrow)

    narrowed = operator if function is None else without_added(function)
    bounds = (narrowed.output_zero_point, narrowed.output_min, narrowed.output_max)
    dtype = "uint8" if added_dtype else operator.output_dtype
    narrow_dtype = dtype if table is None else "uint8"
    short = wanted.short and function is None and not interleaved

    def finish(
        accumulators: Sequence[Any],
        multipliers: Sequence[Any],
        factors: Sequence[Any] = (),
        addends: Sequence[Any] = (),
        summands: Sequence[Any] = (),
        offset: Any = None,
    ) -> Any:
        if loads_addends:
            operands = zip(map(_as_float, accumulators), multipliers, addends, strict=True)
            values = [fused_multiply_add(*each) for each in operands]
        else:
            values = [scaled(a, m) for a, m in zip(accumulators, multipliers, strict=True)]
        if short:
            result = isa.quantized(values, *bounds, narrow_dtype, offset)
        else:
            if function is None:
                integers = [isa.rounded(v) for v in values]
            else:
                known = summands or [None] * len(values)
                integers = [hard_swished(*each, function, isa) for each in zip(values, factors, known, strict=True)]
            narrow = isa.saturate_interleaved if interleaved else isa.saturate
            result = as_stored(narrow(integers, *bounds), narrow_dtype)
        if table is not None:
            looked_up = isa.lookup(result, _constant_vectors(isa.arrange_table(table), isa.table_vectors))
            result = as_stored(looked_up, dtype)
        return result

    def add(result: Any, other: Any) -> Any:
        if not isinstance(operator, QConv2dAdd):
            raise TypeError(f"Expected qnn.conv2d_add, got {operator}")
        other = other if added_dtype == "uint8" else with_other_sign(other)
        return as_stored(isa.weighted_sum(result, other, operator.addition), operator.output_dtype)

    halo_value = operator.halo_value if isinstance(operator, QConv2d) else 0
    add_or_none = add if added_dtype else None
    scales = 1 if function is None else 2
    return Epilogue(
        operator.output_dtype,
        finish,
        isa.saturate_vectors,
        add_or_none,
        added_dtype,
        halo_value,
        scales,
        loads_addends,
        None if function is None or not has_summand(function) else lambda f: summand_of(f, function, isa),
        isa.rounding_offset(operator.output_zero_point, narrow_dtype) if loads_addends and short else None,
    )


@functools.lru_cache(maxsize=MOST)
def activate(operator: Conv2d | Dense, isa: InstructionSet) -> Epilogue:
    """Return the last step of a float32 operator: its activation, without any multiplier."""

    def finish(accumulators: Sequence[Any], _: Sequence[Any]) -> Any:
        return isa.clipped(accumulators[0], operator.clip_min, operator.clip_max)

    def add(result: Any, other: Any) -> Any:
        return isa.clipped(result + other, total.clip_min, total.clip_max)

    total = operator.addition if isinstance(operator, Conv2dAdd) else Add()
    halo_value = operator.halo_value if isinstance(operator, Conv2d) else 0.0
    add_or_none = add if isinstance(operator, Conv2dAdd) else None
    return Epilogue("float32", finish, add=add_or_none, added_dtype="float32", halo_value=halo_value)


def _constant_vectors(table: npt.NDArray[np.uint8], count: int) -> list[Any]:
    """Return a table as constant vectors, which LLVM loads where they are used, so that they occupy no registers."""
    return [T.Shuffle([T.uint8(int(v)) for v in row], list(range(len(row)))) for row in table.reshape(count, -1)]


def _scaled(accumulator: Any, multiplier: Any) -> Any:
    return T.cast(accumulator, vector_type("float32", lanes_of(accumulator))) * multiplier


def _scaled_float(accumulator: Any, multiplier: Any) -> Any:
    # Vectors that share a multiplier share the addend, too. Stored, it would take as much space as all multipliers.
    return fused_multiply_add(
        _as_float(accumulator), multiplier, multiplier * splat(T.float32(-FLOAT_OFFSET), lanes_of(accumulator))
    )


def _scaled_difference(accumulator: Any, multiplier: Any) -> Any:
    # The difference is exact. Both instructions can take an operand from memory, so that they are no more than a load
    # of the multiplier and a fused multiply-add with a stored offset.
    return (_as_float(accumulator) - splat(T.float32(FLOAT_OFFSET), lanes_of(accumulator))) * multiplier


def _as_float(accumulator: Any) -> Any:
    return T.reinterpret(vector_type("float32", lanes_of(accumulator)), accumulator)
