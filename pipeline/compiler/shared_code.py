"""Kernels that differ in numbers only become one function, which is given the numbers as arguments.

Networks repeat their layers: kernels then differ in zero points, bounds and scales alone, and machine code of each one
would be a large part of a library. As arguments, these numbers are in registers, or on the stack, where they would
otherwise be constants in memory, so that kernels take as long as before.

Before -> after: kernels with `T.Broadcast(T.uint8(17), 64)` and `T.Broadcast(T.uint8(5), 64)` become one that has
`T.Broadcast(value, 64)`, and is called with 17 and 5. What decides about instructions stays a constant: sizes and
indices, shifts, and numbers at which an instruction isn't needed (`_special`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from pipeline.ir.tvm_private.relax import hash_of

Number: TypeAlias = tirx.IntImm | tirx.FloatImm

Shared: TypeAlias = tuple[tirx.PrimFunc, tuple[tirx.IntImm, ...]]
"""A function, and the numbers that it is to be given before the output: of a float32, the bits."""


def with_shared_code(functions: Sequence[tuple[str, tirx.PrimFunc]]) -> list[Shared]:
    """Return for each function what to call in its place.

    Args:
        functions: kernels, each with a name. Only those of the same name are compared.
    """
    result: list[Shared] = [(function, ()) for _, function in functions]
    by_name: dict[str, dict[int, list[int]]] = {}
    for i, (name, function) in enumerate(functions):
        by_name.setdefault(name, {}).setdefault(hash_of(function), []).append(i)
    for equal in by_name.values():
        if len(equal) == 1:
            continue
        alike: dict[int, list[_Equal]] = {}
        for places in equal.values():
            template, numbers = _template(functions[places[0]][1])
            alike.setdefault(hash_of(template), []).append(_Equal(places, numbers))
        for members in alike.values():
            if len(members) > 1:
                _share(members, result)
    return result


class _Equal(NamedTuple):
    """Functions that are equal.

    Attributes:
        places: theirs in the result of `with_shared_code`.
        numbers: theirs that may become arguments.
    """

    places: list[int]
    numbers: list[Number]


def _share(members: Sequence[_Equal], result: list[Shared]) -> None:
    """Let functions that differ in numbers only be one, in the result of `with_shared_code`."""
    columns = list(zip(*(member.numbers for member in members), strict=True))
    # Places that have the same numbers as each other, function by function, share an argument.
    values = [tuple(number.value for number in column) for column in columns]
    names = [
        None if len(set(each)) == 1 else (*each, str(column[0].ty))
        for each, column in zip(values, columns, strict=True)
    ]
    first = {name: place for place, name in reversed(list(enumerate(names))) if name is not None}
    shared = _with_arguments(result[members[0].places[0]][0], names)
    for member in members:
        arguments = tuple(_as_argument(member.numbers[place]) for place in sorted(first.values()))
        for i in member.places:
            result[i] = shared, arguments


def _template(function: tirx.PrimFunc) -> tuple[tirx.PrimFunc, list[Number]]:
    """Return what a function has in common with those that differ from it in numbers only, and these numbers."""
    numbers: list[Number] = []

    def replaced(number: Number) -> Number:
        numbers.append(number)
        return _placeholder(isinstance(number, tirx.FloatImm), str(number.ty))

    return tirx.PrimFunc(function.params, _mapped(function.body, replaced), function.ret_type, function.attrs), numbers


@functools.cache
def _placeholder(is_float: bool, dtype: str) -> Number:
    # Any number that isn't special: all of those are replaced.
    return tirx.FloatImm(dtype, 2) if is_float else tirx.IntImm(dtype, 2)


def _with_arguments(function: tirx.PrimFunc, names: Sequence[tuple[Any, ...] | None]) -> tirx.PrimFunc:
    """Return a function with some of its numbers as arguments, before the last one.

    Args:
        function: the function.
        names: for each number that may become one, anything that those have in common that are the same argument; None
            if it remains a constant.
    """
    arguments: dict[Any, tirx.Var] = {}
    remaining = iter(names)

    def replaced(number: Number) -> Any:
        name = next(remaining)
        if name is None:
            return number
        argument = arguments.setdefault(name, tirx.Var(f"value{len(arguments) + 1}", _as_argument(number).ty))
        return T.reinterpret(str(number.ty), argument) if isinstance(number, tirx.FloatImm) else argument

    body = _mapped(function.body, replaced)
    *inputs, output = function.params
    return tirx.PrimFunc([*inputs, *arguments.values(), output], body, function.ret_type, function.attrs)


def _as_argument(number: Number) -> tirx.IntImm:
    """Return what stands for a number in a call: for a float, which TVM would compute by a function, its bits."""
    if isinstance(number, tirx.IntImm):
        return number
    value = np.dtype(str(number.ty)).type(number.value)
    bits = f"int{8 * value.itemsize}"
    return tirx.IntImm(bits, int(value.view(bits)))


def _mapped(body: tirx.Stmt, replace: Callable[[Number], Any]) -> tirx.Stmt:
    """Replace numbers that may become arguments, in their order."""
    kept: list[Any] = []

    def visit_shift(shift: Any) -> Any:
        kept.append(shift.b)
        return shift

    def visit_broadcast(vector: tirx.Broadcast) -> tirx.Broadcast:
        number = vector.value
        if not isinstance(number, tirx.IntImm) or _special(number) or any(vector.same_as(each) for each in kept):
            return vector
        return tirx.Broadcast(replace(number), vector.lanes)

    def visit_float(number: tirx.FloatImm) -> Any:
        return number if _special(number) else replace(number)

    callbacks = [
        ((tirx.LShift, tirx.RShift), visit_shift),
        (tirx.Broadcast, visit_broadcast),
        (tirx.FloatImm, visit_float),
    ]
    return tvm_ffi.structural_map(body, callbacks, order="pre")


def _special(number: Number) -> bool:
    """Return whether an instruction with a number may do nothing: an addition of 0, or a minimum with the largest."""
    value = number.value
    if isinstance(number, tirx.FloatImm) or value in (-1, 0, 1):
        return value in (-1, 0, 1)
    dtype = np.dtype(str(number.ty.dtype))
    return (dtype.kind in "iu" and value in (np.iinfo(dtype).min, np.iinfo(dtype).max)) or dtype.kind == "b"
