"""The result of annotate, as data: it can be printed, saved, edited by hand and given back.

An annotation file is JSON with two lists. `operators` says for each operator whether it is computed in int8 or
float32, and why; `tensors` says for each 8-bit tensor whether it can be negative and whose scale it shares. Operators
and tensors go by the name of the ONNX tensor that the operator produces; in files that are edited by hand, an
operator's name may be that of an ONNX node, a type or a pattern, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import TableError, unknown_name
from pipeline.files import read_text, write_text

Precision = Literal["int8", "float32"]


class OperatorDecision(BaseModel):
    """What becomes of one operator.

    Attributes:
        name: name of the tensor that it produces. A file may name operators, several at once, too, in any of the ways
            that `quantization.selection` knows.
        operator: its type, e.g. `conv2d`.
        precision: how it is computed.
        per_channel: whether its weights get one scale per output channel; None if it has no weights.
        reason: why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    operator: str = ""
    precision: Precision
    per_channel: bool | None = None
    reason: str = "the annotation says so"


class TensorDecision(BaseModel):
    """How one 8-bit tensor is stored.

    Attributes:
        name: the tensor.
        signed: False if it can't be negative; then zero is its smallest code.
        shares: the tensor whose scale and zero point it takes, or None if it is calibrated itself.
        reason: why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    signed: bool
    shares: str | None = None
    reason: str


class Annotation(BaseModel):
    """All decisions for one program, in order of execution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operators: tuple[OperatorDecision, ...]
    tensors: tuple[TensorDecision, ...]

    def summary(self) -> str:
        """Return `22 of 23 operators in int8`."""
        count = sum(o.precision == "int8" for o in self.operators)
        return f"{count} of {len(self.operators)} operators in int8"

    def operator(self, name: str) -> OperatorDecision | None:
        """Return the decision for the operator that produces `name`; None if there is none."""
        return next((o for o in self.operators if o.name == name), None)

    def tensor(self, name: str) -> TensorDecision | None:
        """Return the decision for a tensor; None if it isn't 8-bit."""
        return next((t for t in self.tensors if t.name == name), None)

    def source(self, name: str) -> str:
        """Return the tensor whose calibration holds for `name`, following shared scales to their end.

        Raises:
            TableError: the tensor isn't 8-bit, or tensors share in a circle.
        """
        by_name = {t.name: t for t in self.tensors}
        seen = [name]
        while True:
            decision = by_name.get(seen[-1])
            if decision is None:
                raise TableError(f"Annotation: {unknown_name('8-bit tensor', seen[-1], by_name)}")
            if decision.shares is None:
                return decision.name
            if decision.shares in seen:
                raise TableError(f"Annotation: tensors share their scale in a circle: {' -> '.join(seen)}.")
            seen.append(decision.shares)

    def calibrated(self) -> tuple[TensorDecision, ...]:
        """Return the tensors that need a scale of their own."""
        return tuple(t for t in self.tensors if t.shares is None)

    def save(self, path: Path) -> None:
        """Write the annotation as JSON."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Annotation:
        """Read an annotation file.

        Raises:
            TableError: it can't be read, isn't JSON, or doesn't fit the schema.
        """
        try:
            return cls.model_validate_json(read_text(path, "annotation", TableError))
        except ValidationError as error:
            raise TableError(f"Annotation {path} doesn't fit its schema:\n{error}") from error
