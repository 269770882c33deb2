"""The one table that says which kernel computes which operator on which instruction set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import Operator

Generator = Callable[[Operation, InstructionSet], Kernel]
Predicate = Callable[[Operation], bool]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        operator: the operator's description class.
        isa: name of the instruction set that the kernel needs; every descendant of it can run the kernel too.
        name: what the kernel computes and how, `<operator>_<variant>`.
        generate: makes the kernel.
        accepts: whether the kernel can compute this operation; the first row that accepts, wins.
    """

    operator: type[Operator]
    isa: str
    name: str
    generate: Generator
    accepts: Predicate

    def name_for(self, isa: InstructionSet) -> str:
        """Return the kernel's name in programs and listings: compiled for an instruction set, its own or a child's."""
        return f"{self.name}__{isa.name}"


_rows: list[Row] = []


def kernel(
    operator: type[Operator], isa: str, variant: str = "direct", accepts: Predicate = lambda _: True
) -> Callable[[Generator], Generator]:
    """Register the decorated generator for an operator on an instruction set, and all that descend from it.

    Within one operator and instruction set, rows are tried in the order of registration.
    """

    def add(generate: Generator) -> Generator:
        name = f"{operator.name.replace('.', '_')}_{variant}"
        _rows.append(Row(operator, isa, name, generate, accepts))
        return generate

    return add


def rows() -> tuple[Row, ...]:
    """Return all registered kernels."""
    return tuple(_rows)


def select(operation: Operation, isa: InstructionSet) -> Row:
    """Return the best kernel for an operation: the instruction set's own first, then its ancestors', down to portable.

    Raises:
        LookupError: no kernel accepts it. The portable row of an operator accepts everything, so this is a defect.
    """
    for candidate in isa.lineage():
        for row in _rows:
            if row.operator is type(operation.attrs) and row.isa == candidate.name and row.accepts(operation):
                return row
    raise LookupError(f"No kernel for {operation.attrs} on {isa.name}")
