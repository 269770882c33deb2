"""Instruction sets: what a kernel may use, one module for each."""

from __future__ import annotations

from pipeline.kernels.isa.contract import InstructionSet

__all__ = ["InstructionSet", "instruction_set", "instruction_sets"]


def instruction_sets() -> dict[str, InstructionSet]:
    """Return every known instruction set by name."""
    from pipeline.kernels.isa import portable
    from pipeline.kernels.isa.arm import neon
    from pipeline.kernels.isa.x86 import amx, avx2, avx512, avx512_vbmi, avx512_vnni, avx_vnni, sse41

    known = (
        portable.PORTABLE,
        sse41.SSE41,
        avx2.AVX2,
        avx_vnni.AVX_VNNI,
        avx512.AVX512,
        avx512_vnni.AVX512_VNNI,
        avx512_vbmi.AVX512_VBMI,
        amx.AMX_INT8,
        neon.NEON,
    )
    return {isa.name: isa for isa in known}


def instruction_set(name: str) -> InstructionSet:
    """Return the instruction set called `name`.

    Raises:
        KeyError: there is none of that name.
    """
    return instruction_sets()[name]
