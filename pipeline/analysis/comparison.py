"""Float and int8 side by side: how far each tensor of an int8 program is from the float program's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tvm import relax

from pipeline.api import Quantized
from pipeline.distances import Array, Distance
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.rules import kind_of
from pipeline.scale_out import Engine, Run, ThisProcess

INPUT = "input"
"""What the type of a tensor is called that no operator computes."""


@dataclass(frozen=True)
class TensorComparison:
    """One tensor, over all samples.

    Attributes:
        name: its name, which is that of the operator that computes it, too.
        operator: the operator's type, `INPUT` for a model's input.
        precision: of the tensor as int8's operators read it: "int8", "int16" or "float32".
        sqnr_db: signal to quantization noise, decibels, of all that was rounded up to here; infinity if nothing was.
        fall_db: how much that is less than the smallest of the tensors that the operator reads; None where it reads
            none that was compared, or one of both is infinite.
        cosine: of the angle between float's and int8's values, as vectors.
        clipped: share of float's values that are out of the range of the quantized ones, by more than half a step; None
            of a float tensor.
        unused: share of the quantized values, 256 with 8 bits, that never occur; None of a float tensor.
    """

    name: str
    operator: str
    precision: str
    sqnr_db: float
    fall_db: float | None
    cosine: float
    clipped: float | None
    unused: float | None


@dataclass(frozen=True)
class Comparison:
    """All tensors of a model, in order of execution.

    Attributes:
        model: the model's name.
        samples: how many batches were run.
        inputs: which these were, after their number: "of the calibration samples", for example.
        below: decibels; see `first`.
        tensors: what was compared.
    """

    model: str
    samples: int
    inputs: str
    below: float
    tensors: tuple[TensorComparison, ...]

    @property
    def first(self) -> TensorComparison | None:
        """The first tensor whose signal to quantization noise is less than `below`; None if there is none."""
        return next((t for t in self.tensors if t.sqnr_db < self.below), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, for JSON."""
        return asdict(self) | {"first": None if self.first is None else self.first.name}


def compare_tensors(
    quantized: Quantized,
    feeds: Iterable[Mapping[str, Array]],
    described: str,
    below: float,
    progress: Callable[[int], None] = lambda done: None,
    engine: Engine | None = None,
) -> Comparison:
    """Run float and int8 over samples and compare every tensor that both have.

    Memory holds one batch's activations of both programs, however many batches there are.

    Args:
        quantized: both programs.
        feeds: at least one batch.
        described: see `Comparison.inputs`.
        below: see `Comparison.below`.
        progress: called after each batch with the number of batches so far.
        engine: runs both programs; None means this process.
    """
    pairs = _pairs(quantized)
    float_program = quantized.source.with_outputs([p.name for p in pairs])
    int8_program = quantized.program.with_outputs([p.counterpart for p in pairs])
    work = _Comparing(tuple((p.name, p.counterpart, p.parameters) for p in pairs))
    count = 0
    for found in (engine or ThisProcess()).map(work, [float_program, int8_program], feeds):
        for pair, own in zip(pairs, found, strict=True):
            pair.merge(own)
        count += 1
        progress(count)
    return Comparison(quantized.program.name, count, described, below, _results(quantized, pairs))


class _Pair:
    """A tensor of the float program and what it is in the int8 one.

    Attributes:
        name: in the float program.
        counterpart: in the int8 program.
        parameters: of the quantized values; None if it is float32 there, too.
    """

    def __init__(self, name: str, counterpart: str, parameters: QuantizationParameters | None) -> None:
        self.name, self.counterpart, self.parameters = name, counterpart, parameters
        self.distance = Distance()
        self._values = self._clipped = 0
        self._used = np.zeros(0 if parameters is None else parameters.limits[1] - parameters.limits[0] + 1, bool)

    def update(self, expected: Array, actual: Array) -> None:
        """Take in one batch: float32, and float32 or quantized values."""
        if self.parameters is None:
            self.distance.update(expected, actual)
            return
        self.distance.update(expected, self.parameters.dequantized(actual))
        least, largest = self.parameters.limits
        steps = expected / self.parameters.step + self.parameters.zero_point
        self._clipped += int(((steps < least - 0.5) | (steps > largest + 0.5)).sum())
        self._values += expected.size
        self._used[actual.astype("int32") - self.parameters.limits[0]] = True

    def merge(self, other: _Pair) -> None:
        """Take in what was seen of the same tensor in the next batch."""
        self.distance.merge(other.distance)
        self._clipped += other._clipped
        self._values += other._values
        self._used |= other._used

    @property
    def clipped(self) -> float | None:
        """See `TensorComparison`."""
        return None if self.parameters is None else self._clipped / max(self._values, 1)

    @property
    def unused(self) -> float | None:
        """See `TensorComparison`."""
        return None if self.parameters is None else float(1 - self._used.mean())


@dataclass(frozen=True)
class _Comparing:
    """The work: runs both programs.

    Attributes:
        pairs: what a `_Pair` is made with, for each.
    """

    pairs: tuple[tuple[str, str, QuantizationParameters | None], ...]

    def __call__(self, runs: Sequence[Run], item: Mapping[str, Array]) -> Iterator[list[_Pair]]:
        """Yield the pairs of a batch, once."""
        expected, actual = (run(item) for run in runs)
        pairs = [_Pair(*arguments) for arguments in self.pairs]
        for pair in pairs:
            pair.update(expected[pair.name], actual[pair.counterpart])
        yield pairs


def _pairs(quantized: Quantized) -> list[_Pair]:
    """Return the float tensors that are in both programs, in order of execution."""
    written = Dataflow.of(quantized.program.module)
    by_name = {str(b.var.name): b.var for b in written.bindings}
    flow, annotation = Dataflow.of(quantized.source.module), quantized.annotation
    decided = {t.name for t in annotation.tensors}
    found = []
    for var in (*flow.params, *(b.var for b in flow.bindings)):
        name = str(var.name)
        if not _is_float(var):
            continue
        parameters = quantized.table.tensors[annotation.source(name)].parameters if name in decided else None
        stored = "" if parameters is None else parameters.dtype
        if counterpart := _counterpart(var, by_name, ("", ".quantized"), stored):
            found.append(_Pair(name, counterpart, parameters))
        # A fused activation's limits are operators of their own where the result is float32.
        elif counterpart := _counterpart(var, by_name, (".clip_max", ".clip_min", ""), "float32"):
            found.append(_Pair(name, counterpart, None))
    return found


def _is_float(var: relax.Var) -> bool:
    return isinstance(var.ty, relax.TensorType) and tensor_type(var).dtype == "float32"


def _counterpart(var: relax.Var, by_name: Mapping[str, relax.Var], suffixes: tuple[str, ...], dtype: str) -> str | None:
    """Return the name of the int8 program's tensor that is what a float one has become; None if there is none."""
    shape = tensor_type(var).shape
    for suffix in suffixes:
        other = by_name.get(f"{var.name}{suffix}")
        if other is not None and isinstance(other.ty, relax.TensorType):
            found = tensor_type(other)
            if found.dtype == dtype and found.shape == shape:
                return str(other.name)
    return None


def _results(quantized: Quantized, pairs: list[_Pair]) -> tuple[TensorComparison, ...]:
    """Return what was found out about each pair, with how much of its quality the operator before it has lost."""
    producers = {str(v.name): b for v, b in Dataflow.of(quantized.source.module).producers.items()}
    decibels = {p.name: p.distance.sqnr_db for p in pairs}
    return tuple(
        TensorComparison(
            name=pair.name,
            operator=kind_of(producers[pair.name]) if pair.name in producers else INPUT,
            precision="float32" if pair.parameters is None else {"uint8": "int8"}.get(pair.parameters.dtype, "int16"),
            sqnr_db=decibels[pair.name],
            fall_db=_fall(decibels[pair.name], producers.get(pair.name), decibels),
            cosine=pair.distance.cosine,
            clipped=pair.clipped,
            unused=pair.unused,
        )
        for pair in pairs
    )


def _fall(own: float, producer: Binding | None, decibels: Mapping[str, float]) -> float | None:
    read = () if producer is None else (str(v.name) for v in producer.reads)
    known = [decibels[name] for name in read if name in decibels]
    fall = min(known, default=np.inf) - own
    return float(fall) if np.isfinite(fall) else None
