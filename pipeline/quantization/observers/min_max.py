"""The range that was seen, from the smallest to the largest value (PaddleSlim: min_max)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from pipeline.quantization.observers.abs_max import AbsMax
from pipeline.quantization.observers.readers import AS_IT_IS, Reader
from pipeline.quantization.spec import Choice, QuantizationSpec


class MinMax(AbsMax):
    """Chooses the range that was seen, with a zero point, whatever the specification says of symmetry."""

    algorithm = "min_max"

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`; what is read doesn't matter."""
        return super().choose(replace(spec, symmetric=False), readers)
