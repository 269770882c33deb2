"""The range with the smallest earth mover's distance between values and quantized values (PaddleSlim: emd).

Rounding and clipping keep the order of values, so that the distance (Wasserstein-1) between both distributions is the
mean absolute error: Y. Rubner et al., "The Earth Mover's Distance as a Metric for Image Retrieval", IJCV 2000.
PaddleSlim's `emd` compares means and standard deviations in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.observer import NoOptions, Observer
from pipeline.quantization.observers.readers import AS_IT_IS, Reader
from pipeline.quantization.observers.rounding import AbsoluteErrors
from pipeline.quantization.observers.search import best_range
from pipeline.quantization.spec import Choice, QuantizationSpec, spread


class EarthMover(Histogram, Observer):
    """Chooses the range with the smallest mean absolute error at the tensor's readers."""

    algorithm = "emd"

    def __init__(self, options: NoOptions) -> None:
        """See `Observer`."""
        del options
        super().__init__()

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`."""
        return spread(*best_range(self, spec, AbsoluteErrors(self, readers, spec.steps)), spec)
