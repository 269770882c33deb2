"""An int8 model with any exceptions, simulated by one float program: no calibration, no compilation for each of them.

Its operators compute in float32, and what int8 would round is rounded. What corrections have made of weights is used
as it is, though they would be corrected anew in a model with exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.analysis.metrics import BUILT_IN, MeasuredSample, Tally, UserMetric, ranking_of, share_of, tally_of
from pipeline.analysis.switches import TENSOR, Part, with_switches
from pipeline.api import Quantized
from pipeline.compiler.execute import Executor
from pipeline.distances import Array
from pipeline.quantization.annotate import Annotation
from pipeline.quantization.widening import wide_tensors


class Simulation:
    """An int8 model of which parts can be left in float.

    Args:
        quantized: the model with all in int8.

    Attributes:
        parts: what is rounded, each tensor and each layer's weights, in order of execution.
    """

    def __init__(self, quantized: Quantized) -> None:
        self._quantized = quantized
        self._switched = with_switches(
            quantized.source, quantized.annotation, quantized.table, quantized.realized, layers=False
        )
        self._run = Executor(self._switched.program).run
        self.parts: tuple[Part, ...] = tuple(self._switched.parts)

    def tally(
        self, annotation: Annotation, samples: Sequence[MeasuredSample], metric: UserMetric | str, described: str
    ) -> Tally:
        """Return what is measured of a model in which less is in int8.

        Args:
            annotation: of the model.
            samples: to measure on.
            metric: see `tally_of`.
            described: what is quantized, for messages.

        Raises:
            MetricError: see `UserMetric`.
        """
        return tally_of(self._running(self._rounded(annotation)), samples, metric, described)

    def shares(
        self,
        samples: Sequence[MeasuredSample],
        metric: UserMetric | str,
        progress: Callable[[int], None] = lambda done: None,
    ) -> dict[Part, float]:
        """Return for each part which share of the cost of all of them it makes when it is quantized alone.

        Where the metric is the user's, it counts for one half, and the outputs' noise for the other: a metric such as
        an accuracy says nothing about most parts on few samples.

        Args:
            samples: to measure on.
            metric: see `tally_of`.
            progress: called with the number of parts so far.

        Raises:
            MetricError: see `UserMetric`.
        """
        best = tally_of(lambda s: s.float_outputs, samples, metric, "nothing")
        rankings = [ranking_of(metric), *([BUILT_IN["sqnr"]] if isinstance(metric, UserMetric) else [])]
        costs: list[dict[Part, float]] = [{} for _ in rankings]
        for done, part in enumerate(self.parts):
            progress(done)
            tally = tally_of(self._running([part]), samples, metric, f"{part} alone")
            for ranking, own in zip(rankings, costs, strict=True):
                own[part] = max(ranking.cost(tally, best), 0.0)
        return {part: sum(share_of(own[part], sum(own.values())) for own in costs) / len(costs) for part in self.parts}

    def _running(self, rounded: Sequence[Part]) -> Callable[[MeasuredSample], dict[str, Array]]:
        return lambda sample: self._run(self._switched.feeds(sample.inputs, *rounded))

    def _rounded(self, annotation: Annotation) -> list[Part]:
        """Return what is rounded in a model in which less is in int8."""
        int8 = {o.name for o in annotation.operators if o.precision == "int8"}
        base = self._quantized.annotation
        # What has 16 bits without exceptions is rounded to these; to others' 16 bits, next to nothing is lost.
        wide = wide_tensors(annotation) - wide_tensors(base)
        tensors = {base.source(t.name) for t in annotation.tensors if t.name not in wide}
        return [p for p in self.parts if p.name in (tensors if p.kind == TENSOR else int8)]
