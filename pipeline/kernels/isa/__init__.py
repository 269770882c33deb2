"""Instruction sets: the registers and operations that kernels may use.

`contract` says what each has to offer, `meaning` what that computes; `portable`, `x86` and `arm` define them.
"""

from __future__ import annotations

from pipeline.kernels.isa import x86
from pipeline.kernels.isa.arm.dotprod import NEON_DOTPROD
from pipeline.kernels.isa.arm.i8mm import NEON_I8MM
from pipeline.kernels.isa.arm.neon import NEON
from pipeline.kernels.isa.contract import Capability, InstructionSet
from pipeline.kernels.isa.portable import PORTABLE

__all__ = ["Capability", "InstructionSet", "instruction_set", "instruction_sets"]

_KNOWN: tuple[InstructionSet, ...] = (
    PORTABLE,
    x86.SSE41,
    x86.AVX2,
    x86.AVX_VNNI,
    x86.AVX512,
    x86.AVX512_VNNI,
    x86.AVX512_VBMI,
    x86.AMX_INT8,
    NEON,
    NEON_DOTPROD,
    NEON_I8MM,
)
"""All instruction sets; each comes after the one that it extends."""


def instruction_sets() -> dict[str, InstructionSet]:
    """Return every known instruction set by name."""
    return {isa.name: isa for isa in _KNOWN}


def instruction_set(name: str) -> InstructionSet:
    """Return the instruction set called `name`.

    Raises:
        KeyError: there is no instruction set of that name.
    """
    return instruction_sets()[name]
