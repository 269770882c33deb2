"""The threshold that all but a few magnitudes keep to (PaddleSlim: hist)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.observer import Observer
from pipeline.quantization.observers.readers import AS_IT_IS, Reader
from pipeline.quantization.spec import Choice, QuantizationSpec, clip
from pipeline.schema import Record


class PercentileOptions(Record, frozen=True, kw_only=True):
    """Options of `Percentile`.

    Attributes:
        hist_percent: share of the magnitudes, zeros among them, that aren't clipped.
    """

    hist_percent: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.99999


class Percentile(Histogram, Observer):
    """Chooses the smallest threshold that a share of the magnitudes doesn't exceed."""

    algorithm = "hist"
    options = PercentileOptions

    def __init__(self, options: PercentileOptions) -> None:
        """See `Observer`."""
        super().__init__()
        self.share = options.hist_percent

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`; what is read doesn't matter."""
        del readers
        kept = self.zeros + np.cumsum(self.counts)
        last = int(np.searchsorted(kept, self.share * kept[-1]))
        return clip(self.minimum, self.maximum, (last + 1) * self.width, spec)
