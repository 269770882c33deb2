"""Calibrate: run the float program over samples and choose a scale for every tensor that becomes 8-bit."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from pipeline.config.options import CalibrateOptions
from pipeline.errors import TableError
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.process_state import one_at_a_time
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.channel_scales import annotated_places, choose
from pipeline.quantization.observers import ALGORITHMS, Observer, make_observer
from pipeline.quantization.observers.readers import AS_IT_IS, Reader
from pipeline.quantization.readers import readers_of
from pipeline.quantization.sharded import collect_with
from pipeline.quantization.spec import SCALES_ABOVE, Choice, ObserverSpec, QuantizationSpec, ScaleTooLargeError
from pipeline.quantization.statistics import Need, Statistic
from pipeline.quantization.table import Calibrated, CalibrationTable
from pipeline.samples import Samples
from pipeline.scale_out import Engine, ThisProcess

__all__ = ["ALGORITHMS", "CalibrateOptions", "Calibrated", "CalibrationTable", "calibrate"]

LISTED = 5
"""How many tensors a warning names."""

_log = logging.getLogger(__name__)


@one_at_a_time
def calibrate(
    program: Program,
    annotation: Annotation,
    samples: Samples,
    options: CalibrateOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTable:
    """Run the program once over the samples and return a scale and zero point for each tensor that needs one.

    Memory holds a histogram for each tensor, and one batch's activations or two small ones', however many samples there
    are. Samples that look odd are warned of; see `collect`.

    Args:
        program: the float program that was annotated.
        annotation: which tensors to observe.
        samples: a folder, an iterable or a generator function; see `samples`.
        options: how scales are chosen, where the annotation doesn't say so for the tensor itself.
        progress: called after each batch with the number of batches so far.

    Raises:
        SampleError: there is no sample, one doesn't fit the model, or the model's values for it aren't finite.
        OptionError: an option is unknown or out of range.
        TableError: a tensor's values are too large for 8 bits, or it can't be quantized as the annotation says.
    """
    return calibrate_with_statistics(program, annotation, samples, options, progress).table


@dataclass(frozen=True)
class Calibration:
    """What one pass over the samples gives.

    Attributes:
        table: scales and zero points.
        statistics: what corrections asked for.
        closest: other entries of the table for some tensors, those with the smallest squared error; see `Choice`.
    """

    table: CalibrationTable
    statistics: Mapping[Need, Statistic]
    closest: Mapping[str, Calibrated] = field(default_factory=dict)


def calibrate_with_statistics(
    program: Program,
    annotation: Annotation,
    samples: Samples,
    options: CalibrateOptions | None = None,
    progress: Callable[[int], None] | None = None,
    needs: Iterable[Need] = (),
    engine: Engine | None = None,
    warn: bool = True,
) -> Calibration:
    """Calibrate, and collect statistics in the same pass over the samples.

    Args:
        program: see `calibrate`; so are the other arguments.
        annotation: which tensors to observe.
        samples: what to run on.
        options: how scales are chosen.
        progress: called after each batch with the number of batches so far.
        needs: the statistics to collect.
        engine: runs the program; None means this process.
        warn: whether to warn of odd samples and tensors.

    Raises:
        PipelineError: see `calibrate`; an OptionError or DeviceError, see `sharded.collect_with`.
    """
    options = options or CalibrateOptions()
    specs = {name: _decided(spec, options) for name, spec in annotation.specs().items()}
    wanted = {name: observer for name, (_, observer) in specs.items()}
    scaled = annotated_places(program, annotation)
    needs = dict.fromkeys((*needs, *(place.need for place in scaled)))
    found = collect_with(engine or ThisProcess(), program, wanted, needs, samples, options, progress, warn)
    flow = Dataflow.of(program.module)
    variables = {str(var.name): var for var in flow.users if var.name in specs}
    choices = {
        name: _choice(
            name,
            found.observers[name],
            spec,
            readers_of(flow, variables[name]),
            [str(b.var.name) for b in flow.users[variables[name]]],
        )
        for name, (spec, _) in specs.items()
    }

    def entries_of(chosen: Mapping[str, Choice]) -> dict[str, Calibrated]:
        return {name: _entry(choice, found.observers[name], specs[name][0]) for name, choice in chosen.items()}

    entries = entries_of(choices)
    closest = entries_of({name: choice.closest for name, choice in choices.items() if choice.closest is not None})
    for place in scaled:
        within = closest.pop(place.tensor, entries[place.tensor])
        entries[place.tensor] = choose(place, within, found.statistics[place.need])
    for text in _odd_tensors(entries, specs) if warn else ():
        _log.warning(text)
    table = CalibrationTable(model_sha256=program.source_sha256, samples=found.samples, tensors=entries)
    return Calibration(table, found.statistics, closest)


def make_entry(
    name: str, observer: Observer, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS
) -> Calibrated:
    """Return a tensor's entry of the table: the scale and zero point that its observer chooses.

    Args:
        name: the tensor's.
        observer: has seen all its values.
        spec: how it is quantized, with `symmetric` decided.
        readers: what becomes of its values where they are read.

    Raises:
        TableError: the values are so large that the scale would be out of range.
    """
    return _entry(_choice(name, observer, spec, readers), observer, spec)


def _choice(
    name: str, observer: Observer, spec: QuantizationSpec, readers: Sequence[Reader], read_by: Sequence[str] = ()
) -> Choice:
    """Return what a tensor's observer chooses; see `make_entry`. `read_by` has the names of operators, for messages."""
    try:
        return observer.choose(spec, readers)
    except ScaleTooLargeError as error:
        raise TableError(
            f"Tensor {name!r} has values so large that {error}. Check the samples and the model, or leave what reads "
            f"the tensor in float: --skip {' --skip '.join(map(shlex.quote, read_by)) or 'NAME'}."
        ) from error


def _entry(choice: Choice, observer: Observer, spec: QuantizationSpec) -> Calibrated:
    """Return a choice as an entry of the table."""
    seen = observer.minimum <= observer.maximum
    return Calibrated(
        threshold=choice.threshold,
        scale=choice.parameters.scale,
        zero_point=choice.parameters.zero_point,
        dtype=choice.parameters.dtype,
        signed=spec.signed,
        algorithm=choice.algorithm or observer.algorithm,
        minimum=observer.minimum if seen else 0.0,
        maximum=observer.maximum if seen else 0.0,
    )


def check_algorithm(options: CalibrateOptions) -> None:
    """Refuse options that no calibration could follow, before anything is run.

    Raises:
        OptionError: there is no such algorithm, or it has no such option, or the option's value is wrong.
    """
    make_observer(_observer(options))


def _observer(options: CalibrateOptions) -> ObserverSpec:
    return ObserverSpec(algorithm=options.algorithm, options=dict(options.algorithm_options))


def _odd_tensors(entries: Mapping[str, Calibrated], specs: Mapping[str, tuple[QuantizationSpec, object]]) -> list[str]:
    """Return what to tell the user about tensors of whose values 8 bits can't keep, or samples don't show, anything."""
    constant = [f"{name} ({entry.minimum:g})" for name, entry in entries.items() if entry.minimum == entry.maximum]
    tiny = [
        f"{name} ({entry.threshold:g})"
        for name, entry in entries.items()
        if 0 < entry.threshold <= SCALES_ABOVE * specs[name][0].steps
    ]
    found = []
    if constant:
        found.append(
            f"Tensors that have one value in all samples: {_listed(constant)}. Other inputs' values are clipped to it, "
            "or to nothing; if they aren't constant by design, more or other samples are needed."
        )
    if tiny:
        found.append(
            f"Tensors whose values are so small that most become 0, with the largest magnitude: {_listed(tiny)}. Check "
            "the samples and the model, or leave what reads them in float: --skip NAME."
        )
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _decided(spec: QuantizationSpec, options: CalibrateOptions) -> tuple[QuantizationSpec, ObserverSpec]:
    """Return a specification in which the options have decided what it leaves open, and its observer."""
    observer = spec.observer or _observer(options)
    symmetric = options.symmetric if spec.symmetric is None else spec.symmetric
    return replace(spec, symmetric=symmetric, observer=observer), observer
