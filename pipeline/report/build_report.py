"""The report of a build, as data; `report.build_tables` shows it to people."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from pipeline.analysis.mixed_precision import MixedPrecision
from pipeline.compiler.tuning import TunedLayer
from pipeline.errors import QuantizationError
from pipeline.importer.verify import ImportCheck
from pipeline.ir.preprocessing import ImagePreprocessing
from pipeline.ir.program import TensorSpec
from pipeline.quantization.annotate import Annotation
from pipeline.quantization.state import CorrectionOutcome
from pipeline.report.agreement import Agreement


@dataclass(frozen=True)
class Library:
    """One library that was written.

    Attributes:
        target: the target as the user gave it, such as "host".
        resolved: the target's own name.
        path: the library's path.
        size: its size in bytes.
    """

    target: str
    resolved: str
    path: str
    size: int


@dataclass(frozen=True)
class Timing:
    """Latency of the float and the int8 model on this machine: the median of runs made in turn.

    Attributes:
        float32_ms, int8_ms: milliseconds a run.
        threads: how many threads a run used.
    """

    float32_ms: float
    int8_ms: float
    threads: int


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the float and the int8 model on labelled samples.

    Attributes:
        samples: how many samples there were.
        float32, int8: share of samples with the right answer, 0 to 1.
    """

    samples: int
    float32: float
    int8: float


@dataclass(frozen=True, repr=False)
class BuildReport:
    """What a build did, and how near the result is to the float model.

    Attributes:
        model: the model's name.
        algorithm: the calibration algorithm, or "given table" if a table was given.
        calibration_samples: how many samples the calibration table was made from.
        annotation: what became int8, and why the rest didn't.
        libraries: the int8 libraries.
        files: paths of other files that were written, by what they are.
        agreement: how far int8 is from float; None if it wasn't measured.
        accuracy: on labelled samples; None if there are none.
        timing: on this machine; None if it wasn't measured.
        tuned: the layers whose register tiles were measured.
        import_check: how the import was verified; None if that was switched off.
        inputs: the libraries' inputs.
        preprocessing: how pictures become the input; None if samples weren't pictures and no option says so.
        missed: a sentence for each requirement, such as `min_sqnr`, that wasn't met; see `require`.
        corrections: what each correction that was switched on has done after calibration, in order.
        mixed: what was excepted from 8 bits so that the model is good enough; None if `max_drop` wasn't given.
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
    corrections: tuple[CorrectionOutcome, ...] = ()
    mixed: MixedPrecision | None = None

    def require(self) -> None:
        """Raise an error if a requirement (`min_sqnr`, `min_agreement`) wasn't met.

        Raises:
            QuantizationError: the sentences of `missed`, and what to try.
        """
        if self.missed:
            raise QuantizationError(
                f"{' '.join(self.missed)} The libraries were written all the same. Try more, and more typical, "
                "samples, another --algorithm, or --max-drop, which excepts from 8 bits what loses most."
            )

    def __repr__(self) -> str:
        """Return how much became int8, the SQNR, and the paths of the libraries."""
        agreement = "" if self.agreement is None else f", {self.agreement.sqnr_db:.1f} dB"
        files = "".join(f"\n  {library.path}" for library in self.libraries)
        return f"<BuildReport {self.model}: {self.annotation.summary()}{agreement}{files}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON; an infinite SQNR becomes None."""
        tuned = [{"layer": layer.layer, **msgspec.structs.asdict(layer.tile)} for layer in self.tuned]
        values = asdict(self) | {"annotation": msgspec.to_builtins(self.annotation), "tuned": tuned}
        if self.agreement is not None and math.isinf(self.agreement.sqnr_db):
            values["agreement"]["sqnr_db"] = None
        return values if self.mixed is None else values | {"mixed": self.mixed.to_dict()}
