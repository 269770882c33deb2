"""Integers modulo 2**16 or 2**32: vectors whose sums and products may overflow, to be written as formulas.

TVM promises LLVM that additions and multiplications of 32 bits don't overflow. The functions of this module, in LLVM's
language, promise nothing; kernels import them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.vectors import lanes_of

_INSTRUCTIONS = ("add", "sub", "mul")


def modular_functions(lanes: int) -> str:
    """Return the functions that vectors of so many int32 need, in LLVM's language."""
    vector = f"<{lanes} x i32>"
    return "\n".join(
        f"define {vector} @pipeline_{name}_{lanes}({vector} %a, {vector} %b) {{\n%r = {name} {vector} %a, %b\n"
        f"ret {vector} %r\n}}"
        for name in _INSTRUCTIONS
    )


def modular_add(a: Any, b: Any) -> Any:
    """Return `a + b` modulo 2**32 for two int32 vectors."""
    return _call("add", a, b)


@dataclass(frozen=True)
class Modular:
    """A vector of int16 or int32 that takes part in a formula; each result is computed once.

    Attributes:
        value: the TIR expression.
    """

    value: Any

    def __add__(self, other: Modular) -> Modular:
        """Return the sum."""
        return self._result("add", other.value)

    def __sub__(self, other: Modular) -> Modular:
        """Return the difference."""
        return self._result("sub", other.value)

    def __mul__(self, factor: int) -> Modular:
        """Return the product with a constant: a shift, if it is a power of two."""
        lanes = lanes_of(self.value)
        constant = T.int32 if self._is_wide else T.int16
        shift = factor.bit_length() - 1
        if factor == 1 << shift:
            return Modular(T.bind(T.shift_left(self.value, T.broadcast(constant(shift), lanes))))
        return self._result("mul", T.broadcast(constant(factor), lanes))

    @property
    def _is_wide(self) -> bool:
        return str(self.value.ty.dtype).startswith("int32")

    def _result(self, name: str, other: Any) -> Modular:
        if self._is_wide:
            return Modular(T.bind(_call(name, self.value, other)))
        a, b = self.value, other
        return Modular(T.bind({"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b}[name]()))


def _call(name: str, a: Any, b: Any) -> Any:
    lanes = lanes_of(a)
    return T.call_extern(f"int32x{lanes}", f"pipeline_{name}_{lanes}", a, b)
