"""The pipeline as three calls: `load`, `quantize` and `Quantized.build`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.compiler.build import compile_program, release_with
from pipeline.compiler.tuning import TuningDatabase
from pipeline.config.options import AnnotateOptions, ImageOptions, QuantizeOptions
from pipeline.config.schema import keywords
from pipeline.exporter import to_onnx
from pipeline.files import make_folder, write_bytes
from pipeline.importer import import_model
from pipeline.importer.normalize import Fixed, Shapes
from pipeline.ir.preprocessing import ImagePreprocessing
from pipeline.ir.program import Program, summary_of
from pipeline.library.metadata import FloatOperator, QuantizationSummary
from pipeline.process_state import one_at_a_time
from pipeline.quantization.annotate import Annotation
from pipeline.quantization.calibrate import CalibrationTable
from pipeline.quantization.state import CorrectionOutcome
from pipeline.quantization.steps import run, steps
from pipeline.samples import Samples, preprocessing_of, with_image_options
from pipeline.samples.images import resolve_preprocessing
from pipeline.samples.shapes import open_shapes
from pipeline.scale_out import engine_for
from pipeline.targets import Target, load_target


@dataclass(frozen=True, repr=False)
class Quantized:
    """An int8 model, ready to be built for any target.

    Attributes:
        program: the int8 program.
        source: the float program that it was made from.
        annotation: what became int8, and why the rest didn't.
        table: scales and zero points of the 8-bit tensors.
        realized: the float program that integers were made of: the source, as corrections have left it.
        corrections: what became of the corrections that were wanted, in order.
    """

    program: Program
    source: Program
    annotation: Annotation
    table: CalibrationTable
    realized: Program
    corrections: tuple[CorrectionOutcome, ...] = ()

    def __repr__(self) -> str:
        """Return the model's name, how much became int8, and its inputs and outputs."""
        p, samples = self.program, self.table.samples
        summary = f"{self.annotation.summary()}, calibrated with {samples} sample{'s' * (samples != 1)}"
        summary += "".join(f", {outcome.name}" for outcome in self.corrections if outcome.kept)
        return f"<Quantized {p.name}: {summary}\n{summary_of(p.inputs, p.outputs)}>"

    def build(
        self,
        target: str | Path | Target,
        path: str | Path,
        dump: str | Path | None = None,
        tuned: TuningDatabase | None = None,
    ) -> Path:
        """Write the int8 model as a shared library; see `compiler.build.compile_program`.

        Args:
            target: name of a target, path of a target file, or a target.
            path: the library to write; its folder is made if it doesn't exist.
            dump: folder for the program after each compiler phase, and the assembly; None writes neither.
            tuned: measured register tiles to use; see `compiler.tuning.tune`.
        """
        chosen = target if isinstance(target, Target) else load_target(target)
        folder = None if dump is None else Path(dump)
        make_folder(Path(path).parent)
        return compile_program(self.program, chosen, Path(path), self.summary(), folder, tuned)

    def export(self, path: str | Path) -> Path:
        """Write the int8 model as ONNX, for other runtimes; see `exporter`.

        Args:
            path: the .onnx file to write; its folder is made if it doesn't exist.

        Raises:
            ModelError: an operator has no form in ONNX yet.
            OptionError: the file can't be written.
        """
        written = Path(path)
        model = to_onnx(self.realized, self.program, self.annotation, self.table)
        make_folder(written.parent)
        write_bytes(written, model.SerializeToString(deterministic=True))
        return written

    def summary(self) -> QuantizationSummary:
        """Return what a library's metadata says about the quantization."""
        sources = {t.name: self.annotation.source(t.name) for t in self.annotation.tensors}
        operators, entries = self.annotation.operators, self.table.tensors
        return QuantizationSummary(
            # Scales of channels, thousands of them, are in the calibration table only.
            quantization={name: entries[source].parameters.with_one_scale() for name, source in sources.items()},
            table_sha256=hashlib.sha256(self.table.to_json().encode("utf-8")).hexdigest(),
            int8_operators=sum(o.precision == "int8" for o in operators),
            float_operators=tuple(
                FloatOperator(name=o.name, operator=o.operator, reason=o.reason)
                for o in operators
                if o.precision == "float32"
            ),
        )


def load(
    path: str | Path,
    shapes: Shapes | None = None,
    samples: Samples | None = None,
    fixed: Fixed | None = None,
    cut_at: Sequence[str] = (),
) -> Program:
    """Read an ONNX file as a float32 program; see `importer.import_model`.

    Args:
        path: the .onnx file.
        shapes: input name -> shape, for inputs whose shape the file leaves open.
        samples: open shapes that aren't in `shapes` are taken from the first sample; see `samples.shapes`.
        fixed: input name -> value of all its elements, for inputs that become constants.
        cut_at: tensors that become the outputs, instead of the model's own; what comes after them is left out.
    """
    return import_model(path, shapes, lambda declared, given: open_shapes(declared, given, samples), fixed, cut_at)


@keywords(QuantizeOptions)
def quantize(
    program: Program,
    samples: Samples | None = None,
    *,
    annotation: Annotation | None = None,
    table: CalibrationTable | None = None,
    progress: Callable[[int], None] | None = None,
    options: AnnotateOptions | None = None,
    **keys: Any,
) -> Quantized:
    """Make an int8 model of a float one.

    Args:
        program: the float program.
        samples: 100 to 500 typical inputs: a folder of .npy or .npz files or of pictures, an iterable, or a function
            that returns one. Each item is a sample or a batch of samples; a label beside it isn't used. PaddleSlim's
            sample_generator, batch_generator and data_loader are given here. Not needed with `table`.
        annotation: what becomes int8, if it isn't to be decided; for example an edited annotation.
        table: a calibration table to use as it is; then the model isn't run.
        progress: called after each batch with the number of batches so far.
        options: `operators`, `skip` and `per_channel` as one object.
        **keys: {options}

    Raises:
        SampleError: the samples don't fit the model, or there are none.
        OptionError: an option is unknown or out of range.
        TableError: the annotation or the table doesn't fit the model.
    """
    base = QuantizeOptions(annotate=options or AnnotateOptions())
    return quantize_with(program, samples, QuantizeOptions.from_values(keys, base), annotation, table, progress)


@one_at_a_time
def quantize_with(
    program: Program,
    samples: Samples | None,
    options: QuantizeOptions,
    annotation: Annotation | None = None,
    table: CalibrationTable | None = None,
    progress: Callable[[int], None] | None = None,
) -> Quantized:
    """Make an int8 model of a float one, with the options as one object; see `quantize`."""
    samples = with_image_options(samples, options.images)
    program = replace(program, preprocessing=_preprocessing(program, samples, options.images))
    with engine_for(options.scale_out) as engine:
        state = run(program, steps(samples, options, annotation, table, progress, engine))
    realized = state.realized or program
    quantized = Quantized(
        state.program, state.uncorrected, state.annotation, state.calibrated(), realized, state.corrections
    )
    release_with(quantized)
    return quantized


def _preprocessing(program: Program, samples: Samples | None, options: ImageOptions) -> ImagePreprocessing | None:
    """Return how pictures become the program's input; None if neither samples nor options say so.

    Raises:
        OptionError: pictures can't become the input.
    """
    if samples is None and options != ImageOptions():
        return resolve_preprocessing(options, program.inputs[0])
    return preprocessing_of(samples, program.inputs) or program.preprocessing
