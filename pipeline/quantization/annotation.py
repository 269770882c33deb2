"""What annotate decides, as data that can be printed, saved, edited by hand and used again.

An annotation file is JSON with two lists. `operators` says for each operator whether it is computed in int8 or
float32, and why; `tensors` says for each 8-bit tensor how it is to be quantized, or whose scale it shares. An operator
has the name of the ONNX tensor that it produces. In files that are edited by hand, an operator's name may also be the
name of an ONNX node, a type, or a pattern, and then stands for all operators that it fits.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from pipeline.errors import TableError, unknown_name
from pipeline.files import write_text
from pipeline.quantization.spec import QuantizationSpec
from pipeline.schema import Record, read_json, to_json

Precision = Literal["int8", "float32"]


class OperatorDecision(Record, frozen=True, kw_only=True):
    """Whether one operator is computed in int8.

    Attributes:
        name: name of the tensor that it produces. In a file, one name may stand for several operators: see
            `quantization.selection`.
        operator: its type, e.g. `conv2d`.
        precision: what it is computed in.
        weights: how its weights are quantized; None if it has none. A file may leave this out: then each output channel
            has a scale of its own.
        reason: why it is computed in that, in words.
    """

    name: str
    operator: str = ""
    precision: Precision
    weights: QuantizationSpec | None = None
    reason: str = "the annotation says so"


class TensorDecision(Record, frozen=True, kw_only=True):
    """How one 8-bit tensor is stored.

    Attributes:
        name: the tensor.
        spec: how it is quantized; None if it shares another tensor's scale.
        shares: the tensor whose scale and zero point it has, too; None if it is calibrated itself.
        reason: why, in words.
    """

    name: str
    spec: QuantizationSpec | None = None
    shares: str | None = None
    reason: str = "the annotation says so"

    def __post_init__(self) -> None:
        """Check that exactly one of both is given; while a file is read, msgspec reports this as a validation error."""
        if (self.spec is None) is (self.shares is None):
            raise ValueError(f"tensor {self.name!r} needs either a spec or the tensor that it shares its scale with")


class Annotation(Record, frozen=True, kw_only=True):
    """All decisions for one program, in order of execution."""

    operators: tuple[OperatorDecision, ...]
    tensors: tuple[TensorDecision, ...]

    def __post_init__(self) -> None:
        """Check that no tensor is decided twice; while a file is read, msgspec reports this as a validation error."""
        twice = [name for name, count in Counter(t.name for t in self.tensors).items() if count > 1]
        if twice:
            raise ValueError(f"tensor {twice[0]!r} is listed twice")

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
        return tuple(t for t in self.tensors if t.spec is not None)

    def check_supported(self) -> None:
        """Refuse what can't be computed yet.

        Raises:
            TableError: a tensor, or an operator's weights, can't be quantized as the annotation says.
        """
        for operator in self.operators:
            reason = None if operator.weights is None else operator.weights.unsupported_weights(operator.operator)
            if reason is not None:
                raise TableError(
                    f"Annotation: the weights of {operator.name!r} can't be quantized as it says: {reason}."
                )
        for tensor in self.tensors:
            reason = None if tensor.spec is None else tensor.spec.unsupported_activation()
            if reason is not None:
                raise TableError(f"Annotation: tensor {tensor.name!r} can't be quantized as it says: {reason}.")

    def specs(self) -> dict[str, QuantizationSpec]:
        """Return how the tensors that need a scale of their own are to be quantized, by name; see `check_supported`."""
        self.check_supported()
        return {t.name: t.spec for t in self.tensors if t.spec is not None}

    def save(self, path: str | Path) -> None:
        """Write the annotation as JSON."""
        write_text(Path(path), to_json(self))

    @classmethod
    def load(cls, path: str | Path) -> Annotation:
        """Read an annotation file.

        Raises:
            TableError: it can't be read, isn't JSON, or doesn't fit the schema.
        """
        return read_json(Path(path), cls, "annotation", TableError)
