"""The largest magnitude: nothing is clipped (PaddleSlim: abs_max)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.quantization.observers.observer import NoOptions, Observer
from pipeline.quantization.observers.readers import AS_IT_IS, Reader
from pipeline.quantization.spec import Choice, QuantizationSpec, clip


class AbsMax(Observer):
    """Chooses the range that was seen."""

    algorithm = "abs_max"

    def __init__(self, options: NoOptions) -> None:
        """See `Observer`."""
        del options
        self.minimum = math.inf
        self.maximum = -math.inf

    def update(self, values: npt.NDArray[Any]) -> None:
        """See `Observer`."""
        if values.size:
            self.minimum = min(self.minimum, float(np.min(values)))
            self.maximum = max(self.maximum, float(np.max(values)))

    def merge(self, other: Any) -> None:
        """See `Observer`."""
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """See `Observer`."""
        return {"range": np.array([self.minimum, self.maximum])}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """See `Observer`."""
        self.minimum, self.maximum = state["range"].tolist()

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`; what is read doesn't matter."""
        del readers
        return clip(self.minimum, self.maximum, max(abs(self.minimum), abs(self.maximum)), spec)
