"""Calibrate: run the float program over samples and choose a scale for every tensor that becomes 8-bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compiler.execute import Executor
from pipeline.config.options import CalibrateOptions
from pipeline.errors import SampleError
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.quantization.annotate import Annotation
from pipeline.quantization.observers import ALGORITHMS, make_observer
from pipeline.quantization.table import Calibrated, CalibrationTable, make_entry
from pipeline.samples import Samples, batch_of, named_feeds

__all__ = ["ALGORITHMS", "CalibrateOptions", "Calibrated", "CalibrationTable", "calibrate"]

Array = npt.NDArray[Any]


def calibrate(
    program: Program,
    annotation: Annotation,
    samples: Samples,
    options: CalibrateOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTable:
    """Run the program once over the samples and return a scale and zero point for each tensor that needs one.

    Memory holds one batch's activations and a histogram for each tensor, however many samples there are.

    Args:
        program: the float program that was annotated.
        annotation: which tensors to observe.
        samples: a folder, an iterable or a generator function; see `samples`.
        options: how thresholds are chosen.
        progress: called after each batch with the number of batches so far.

    Raises:
        SampleError: there is no sample, one doesn't fit the model, or the model's values for it aren't finite.
        OptionError: an option is unknown or out of range.
        TableError: a tensor's values are too large for 8 bits.
    """
    options = options or CalibrateOptions()
    names = [t.name for t in annotation.calibrated()]
    observers = {name: make_observer(options.algorithm) for name in names}
    batches = 0
    for sample, activations in _activations(program, names, samples, options):
        for name, values in activations.items():
            if not np.isfinite(values).all():
                raise SampleError(
                    f"Tensor {_computed(program, name)!r} is NaN or infinite for {sample}: the float model itself "
                    "overflows on it. Check the sample's preprocessing."
                )
            observers[name].update(values)
        batches += 1
        if progress is not None:
            progress(batches)
    entries = {}
    for decision in annotation.calibrated():
        observer = observers[decision.name]
        entries[decision.name] = make_entry(
            decision.name,
            observer.threshold(127 if decision.signed else 255),
            observer.minimum,
            observer.maximum,
            signed=decision.signed,
            symmetric=options.symmetric,
            algorithm=options.algorithm,
        )
    return CalibrationTable(
        model_sha256=program.source_sha256, samples=batches * batch_of(program.inputs), tensors=entries
    )


def _activations(
    program: Program, names: list[str], samples: Samples, options: CalibrateOptions
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield what each batch is called, and the values of the named tensors for it."""
    stream = named_feeds(samples, program.inputs, options.batch_size, options.batch_nums)
    name, first = next(stream)
    executor = Executor(program.with_outputs(names))
    yield name, executor.run(first)
    for name, feed in stream:
        yield name, executor.run(feed)


def _computed(program: Program, name: str) -> str:
    """Return the name of the tensor whose values another holds, its axes moved; the model knows that one."""
    flow = Dataflow.of(program.module)
    var = next((b.var for b in flow.bindings if b.var.name == name), None)
    while var in flow.producers and flow.producers[var].operator in ("relax.permute_dims", "relax.reshape"):
        var = flow.producers[var].value.args[0]
    return name if var is None else str(var.name)
