"""Calibrate: run the float program over samples and choose a scale for every tensor that becomes 8-bit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from pipeline.compiler.execute import Executor
from pipeline.config.options import CalibrateOptions
from pipeline.errors import SampleError, TableError
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.quantization.annotate import Annotation
from pipeline.quantization.input_range import range_warnings
from pipeline.quantization.observers import ALGORITHMS, Observer, make_observer
from pipeline.quantization.spec import ObserverSpec, QuantizationSpec, ScaleTooLargeError
from pipeline.quantization.table import Calibrated, CalibrationTable
from pipeline.samples import Samples, batch_of, named_feeds, split_of
from pipeline.samples.statistics import SampleStatistics

__all__ = ["ALGORITHMS", "CalibrateOptions", "Calibrated", "CalibrationTable", "calibrate"]

Array = npt.NDArray[Any]

RANGE_BATCHES = 4
"""Of how many batches the range is looked at."""

_logger = logging.getLogger(__name__)


def calibrate(
    program: Program,
    annotation: Annotation,
    samples: Samples,
    options: CalibrateOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTable:
    """Run the program once over the samples and return a scale and zero point for each tensor that needs one.

    Samples that look odd, being few, all the same, constant, or of another range than the model was trained on, are
    warned of (`samples.statistics`, `quantization.input_range`).

    Memory holds one batch's activations and a histogram for each tensor, however many samples there are.

    Args:
        program: the float program that was annotated.
        annotation: which tensors to observe.
        samples: a folder, an iterable or a generator function; see `samples`.
        options: how scales are chosen, as far as the annotation doesn't say it for a tensor.
        progress: called after each batch with the number of batches so far.

    Raises:
        SampleError: there is no sample, one doesn't fit the model, or the model's values for it aren't finite.
        OptionError: an option is unknown or out of range.
        TableError: a tensor's values are too large for 8 bits, or it can't be quantized as the annotation says.
    """
    options = options or CalibrateOptions()
    specs = {name: _decided(spec, options) for name, spec in annotation.specs().items()}
    observers = {name: make_observer(observer) for name, (_, observer) in specs.items()}
    batches, batch = 0, batch_of(program.inputs)
    statistics, kept = SampleStatistics(program.inputs), []
    for sample, feed, activations in _activations(program, list(specs), samples, options):
        statistics.update(sample, feed, batch)
        kept += [feed] if batches < RANGE_BATCHES else []
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
    for text in (*statistics.warnings(), *range_warnings(program, kept)):
        _logger.warning(text)
    entries = {name: make_entry(name, observers[name], spec) for name, (spec, _) in specs.items()}
    return CalibrationTable(model_sha256=program.source_sha256, samples=batches * batch, tensors=entries)


def make_entry(name: str, observer: Observer, spec: QuantizationSpec) -> Calibrated:
    """Return the entry for a tensor with what an observer chooses.

    Args:
        name: the tensor's.
        observer: has seen all its values.
        spec: how it is quantized, with `symmetric` decided.

    Raises:
        TableError: the values are so large that the scale would be out of range.
    """
    try:
        choice = observer.choose(spec)
    except ScaleTooLargeError as error:
        raise TableError(
            f"Tensor {name!r} has values so large that {error}. Check the samples and the model, or leave the tensor "
            f"in float: --skip {name}."
        ) from error
    seen = observer.minimum <= observer.maximum
    return Calibrated(
        threshold=choice.threshold,
        scale=choice.parameters.scale,
        zero_point=choice.parameters.zero_point,
        signed=spec.signed,
        algorithm=observer.algorithm,
        minimum=observer.minimum if seen else 0.0,
        maximum=observer.maximum if seen else 0.0,
    )


def _decided(spec: QuantizationSpec, options: CalibrateOptions) -> tuple[QuantizationSpec, ObserverSpec]:
    """Return a specification in which the options have decided what it leaves open, and its observer."""
    observer = spec.observer or ObserverSpec(algorithm=options.algorithm, options=dict(options.algorithm_options))
    symmetric = options.symmetric if spec.symmetric is None else spec.symmetric
    return replace(spec, symmetric=symmetric, observer=observer), observer


def _activations(
    program: Program, names: list[str], samples: Samples, options: CalibrateOptions
) -> Iterator[tuple[str, dict[str, Array], dict[str, Array]]]:
    """Yield what each batch is called, the batch, and the values of the named tensors for it."""
    stream = named_feeds(samples, program.inputs, options.batch_size, options.batch_nums, split_of(options.hold_back))
    name, first = next(stream)
    executor = Executor(program.with_outputs(names))
    yield name, first, executor.run(first)
    for name, feed in stream:
        yield name, feed, executor.run(feed)


def _computed(program: Program, name: str) -> str:
    """Return the name of the tensor whose values another holds, its axes moved; the model knows that one."""
    flow = Dataflow.of(program.module)
    var = next((b.var for b in flow.bindings if b.var.name == name), None)
    while var in flow.producers and flow.producers[var].operator in ("relax.permute_dims", "relax.reshape"):
        var = flow.producers[var].value.args[0]
    return name if var is None else str(var.name)
