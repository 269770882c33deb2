"""The report of a build, as data and as tables."""

from __future__ import annotations

import collections
import math
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from rich.table import Table

from pipeline.compiler.tuning import TunedLayer
from pipeline.errors import QuantizationError
from pipeline.importer.verify import ImportCheck
from pipeline.ir.preprocessing import ImagePreprocessing
from pipeline.ir.program import TensorSpec
from pipeline.quantization.annotate import Annotation
from pipeline.report.agreement import Agreement


@dataclass(frozen=True)
class Library:
    """One library that was written.

    Attributes:
        target: as the user named it.
        resolved: the target's own name.
        path: the file.
        size: bytes.
    """

    target: str
    resolved: str
    path: str
    size: int


@dataclass(frozen=True)
class Timing:
    """Latency of one run on this machine, milliseconds: median over the runs of both models in turn."""

    float32_ms: float
    int8_ms: float
    threads: int


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labelled samples."""

    samples: int
    float32: float
    int8: float


@dataclass(frozen=True, repr=False)
class BuildReport:
    """What a build did.

    Attributes:
        model: the model's name.
        algorithm: of the calibration table.
        calibration_samples: how many samples the table rests on.
        annotation: what became int8, and why the rest didn't.
        libraries: the int8 libraries.
        files: other files that were written, by what they are.
        agreement: how far int8 is from float; None if it wasn't measured.
        accuracy: on labelled samples; None if there are none.
        timing: on this machine; None if it wasn't measured.
        tuned: the layers whose register tiles were measured.
        import_check: how the import was verified; None if that was switched off.
        inputs: the libraries' inputs.
        preprocessing: how pictures become the input; None if nobody has said so.
        missed: in sentences, what is less than was asked for; see `require`.
    """

    model: str
    algorithm: str
    calibration_samples: int
    annotation: Annotation
    libraries: tuple[Library, ...]
    files: dict[str, str]
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    timing: Timing | None = None
    tuned: tuple[TunedLayer, ...] = ()
    import_check: ImportCheck | None = None
    inputs: tuple[TensorSpec, ...] = ()
    preprocessing: ImagePreprocessing | None = None
    missed: tuple[str, ...] = ()

    def require(self) -> None:
        """Refuse a model that isn't as near to float as was asked for.

        Raises:
            QuantizationError: it isn't.
        """
        if self.missed:
            raise QuantizationError(
                f"{' '.join(self.missed)} The libraries were written all the same. Try more, and more typical, "
                "samples, another --algorithm, or --skip for operators that lose most."
            )

    def __repr__(self) -> str:
        """Return what became int8, how near that is to float, and what was written."""
        agreement = "" if self.agreement is None else f", {self.agreement.sqnr_db:.1f} dB"
        files = "".join(f"\n  {library.path}" for library in self.libraries)
        return f"<BuildReport {self.model}: {self.annotation.summary()}{agreement}{files}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON; an infinite ratio is null."""
        tuned = [{"layer": layer.layer, **msgspec.structs.asdict(layer.tile)} for layer in self.tuned]
        values = asdict(self) | {"annotation": msgspec.to_builtins(self.annotation), "tuned": tuned}
        if self.agreement is not None and math.isinf(self.agreement.sqnr_db):
            values["agreement"]["sqnr_db"] = None
        return values

    def tables(self) -> list[Table]:
        """Return the report for people."""
        summary = Table("", "", title=f"{self.model}: {self.annotation.summary()}", show_header=False)
        summary.add_row("import verified", describe_check(self.import_check))
        for spec in self.inputs:
            summary.add_row(f"input {spec.name}", f"{'x'.join(map(str, spec.shape))} {spec.dtype}")
        if self.preprocessing is not None:
            summary.add_row("pictures", str(self.preprocessing))
        summary.add_row("calibrated", f"{self.algorithm}, {self.calibration_samples} samples")
        if self.agreement is not None:
            summary.add_row("compared with float on", self.agreement.where())
            summary.add_row("same answer as float", f"{self.agreement.same_argmax:.4f}")
            summary.add_row("signal to noise (SQNR)", f"{self.agreement.sqnr_db:.1f} dB")
        return [summary, *self._measured(), self._files(), *self._left_in_float(), *self._tuned()]

    def _measured(self) -> list[Table]:
        table = Table("", "float32", "int8")
        if self.accuracy is not None:
            a = self.accuracy
            table.add_row(f"accuracy on {a.samples} labelled samples", f"{a.float32:.4f}", f"{a.int8:.4f}")
        if self.timing is not None:
            t = self.timing
            threads = "1 thread" if t.threads == 1 else f"{t.threads} threads"
            gain = f"{t.int8_ms:.3f} ms ({t.float32_ms / t.int8_ms:.1f}x)"
            table.add_row(f"latency here, {threads}", f"{t.float32_ms:.3f} ms", gain)
        return [table] if table.row_count else []

    def _files(self) -> Table:
        table = Table("file", "what", "bytes")
        for library in self.libraries:
            what = library.target if library.target == library.resolved else f"{library.target} ({library.resolved})"
            table.add_row(library.path, f"library for {what}", str(library.size))
        for what, path in self.files.items():
            table.add_row(path, what, "")
        return table

    def _tuned(self) -> list[Table]:
        if not self.tuned:
            return []
        table = Table("layer", "cost model's tile", "us", "quickest tile", "us", "gain", title="tuning")
        for layer in self.tuned:
            t = layer.tile
            if (t.mr, t.nv) != (t.model_mr, t.model_nv):
                before, after = f"{t.model_microseconds:.1f}", f"{t.microseconds:.1f}"
                gain = f"{1 - t.microseconds / t.model_microseconds:.0%}"
                table.add_row(layer.layer, f"{t.model_mr}x{t.model_nv}", before, f"{t.mr}x{t.nv}", after, gain)
        model = sum(layer.tile.model_microseconds for layer in self.tuned)
        tuned = sum(layer.tile.microseconds for layer in self.tuned)
        table.add_row(f"all {len(self.tuned)}", "", f"{model:.1f}", "", f"{tuned:.1f}", f"{1 - tuned / model:.1%}")
        return [table]

    def _left_in_float(self) -> list[Table]:
        reasons = collections.Counter(
            (o.operator, o.reason) for o in self.annotation.operators if o.precision == "float32"
        )
        if not reasons:
            return []
        table = Table("in float", "count", "why")
        for (operator, reason), count in reasons.most_common():
            table.add_row(operator, str(count), reason)
        return [table]


def describe_check(check: ImportCheck | None) -> str:
    """Return in words how an import was verified."""
    if check is None:
        return "no, switched off"
    if check.evaluator is None or check.largest_error is None:
        return f"no: {check.note}"
    return f"within {check.largest_error:.1e} of {check.evaluator}, {check.seconds:.1f} s"
