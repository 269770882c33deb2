"""AMX without a CPU that has it: its kernels call a function wherever they would have an instruction.

Everything but the instructions is tested like this on any CPU with AVX512-VNNI; the functions are in amx_emulation.c,
and refuse what the CPU would.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.x86 import AMX_INT8
from pipeline.kernels.isa.x86.amx import MatrixInstructionSet

SOURCE = Path(__file__).with_name("amx_emulation.c")


class EmulatedMatrices(MatrixInstructionSet):
    """Calls a function instead of each instruction."""

    def emit(self, instruction: str, *operands: Any) -> None:
        T.evaluate(T.call_extern("void", f"emulated_{instruction}", *operands))


@functools.cache
def emulated_amx() -> MatrixInstructionSet:
    """Return the instruction set, after its functions have been loaded into this process."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "emulation.so"
        compiler = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC"]
        subprocess.run([*compiler, str(SOURCE), "-o", str(library)], check=True)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return EmulatedMatrices(**{f.name: getattr(AMX_INT8, f.name) for f in dataclasses.fields(AMX_INT8)})
