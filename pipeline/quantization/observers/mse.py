"""The range with the smallest squared error where the tensor is read (PaddleSlim: mse).

Source: Y. Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient Inference", ICCV Workshops 2019, and
PaddleSlim's `mse`, for the error of the tensor itself; here it is that of what the functions that read it make of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.observer import NoOptions, Observer
from pipeline.quantization.observers.readers import AS_IT_IS, Reader
from pipeline.quantization.observers.rounding import SquaredErrors
from pipeline.quantization.observers.search import best_range
from pipeline.quantization.spec import Choice, QuantizationSpec, spread


class MeanSquaredError(Histogram, Observer):
    """Chooses the range with the smallest mean squared error at the tensor's readers."""

    algorithm = "mse"

    def __init__(self, options: NoOptions) -> None:
        """See `Observer`."""
        del options
        super().__init__()

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`."""
        return spread(*best_range(self, spec, SquaredErrors(self, readers, spec.steps)), spec)
