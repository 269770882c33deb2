"""AMX: products of matrix registers, which its manuals call tiles. Here, a tile is what vectors or they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import Array
from pipeline.kernels.isa.x86.vectors import VbmiInstructionSet
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.vectors import span


@dataclass(frozen=True, kw_only=True)
class MatrixInstructionSet(VbmiInstructionSet):
    """x86 with matrix registers.

    Attributes:
        matrix_registers: how many matrix registers there are.
        matrix_rows: how many rows each has at most.
        matrix_row_bytes: how many bytes each row has at most.
    """

    matrix_registers: int = 8
    matrix_rows: int = 16
    matrix_row_bytes: int = 64

    def arrange(self, weights: Array) -> Array:
        """Return weights as `multiply` takes them: rows of four values for each lane; see the base class."""
        *outer, lanes, depth = weights.shape
        rows = weights.reshape(*outer, lanes, depth // 4, 4)
        return np.moveaxis(rows, -2, -3).reshape(*outer, -1)

    def configure(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Set the calling thread's matrix registers up, and clear them.

        Args:
            shapes: rows and bytes of a row of each, from the first on.
        """
        palette, configuration = 1, [0] * 64
        configuration[0] = palette
        for register, (rows, row_bytes) in enumerate(shapes):
            configuration[16 + 2 * register] = row_bytes
            configuration[48 + register] = rows
        buffer = register_buffer(64, "uint8")
        values = T.Shuffle([T.uint8(value) for value in configuration], list(range(64)))
        T.buffer_store(buffer, values, [span(0, 64)])
        self.emit("ldtilecfg", buffer.access_ptr("r"))

    def load(self, register: int, buffer: Any, offset: Any, stride: int) -> None:
        """Fill a register with rows that begin `stride` bytes apart; 0 repeats one."""
        self.emit("tileloadd64", T.uint8(register), buffer.access_ptr("r", offset=offset), T.int64(stride))

    def multiply(self, sums: int, activations: int, weights: int) -> None:
        """Add the product of a register of uint8 activations and one of int8 weights to one of int32 sums.

        Rows of the activations become rows of the sums. A row of the weights holds, for each column of the sums, what
        four neighbouring values of the activations are multiplied with.
        """
        self.emit("tdpbusd", T.uint8(sums), T.uint8(activations), T.uint8(weights))

    def store(self, register: int, buffer: Any, offset: Any, stride: int) -> None:
        """Write the rows of a register, `stride` bytes apart."""
        self.emit("tilestored64", T.uint8(register), buffer.access_ptr("w", offset=offset), T.int64(stride))

    def release(self) -> None:
        """Give the registers back, so that the system needn't keep them for the thread."""
        self.emit("tilerelease")

    def emit(self, instruction: str, *operands: Any) -> None:
        """Emit one instruction, by LLVM's name."""
        T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{instruction}", *operands))
