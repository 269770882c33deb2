"""Of several algorithms, for each tensor the one whose range has the smallest error where the tensor is read.

Errors are squared ones, after the functions that read the tensor (`rounding`). Ranges of `mse` have the smallest by
definition, but errors don't all count alike: a few large values make most of the squared error, while the finer steps
of a range that clips them serve all channels, small ones included, which the next layer, a depthwise one say, may scale
up. That is what `kl` is good at. So its range is taken unless its error is much larger than the smallest; where it is,
that of `mse` is. It is as well wherever dense layers or matrix products read what a layer normalization computes: they
sum up all channels, and its few large values are always in the same ones, so that clipping them shifts every sum.

Which of both a model is better with is known only when it runs, so a choice of `kl` names that of `mse` as well, and
corrections try it; see `corrections.mse_ranges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.kl import KL, KLOptions, kl_range
from pipeline.quantization.observers.mse import MeanSquaredError
from pipeline.quantization.observers.observer import Observer
from pipeline.quantization.observers.readers import AS_IT_IS, Reader, in_products
from pipeline.quantization.observers.rounding import SquaredErrors
from pipeline.quantization.observers.search import best_range
from pipeline.quantization.spec import Choice, QuantizationSpec, spread


class AutoOptions(KLOptions, frozen=True, kw_only=True):
    """Options of `Auto`: those of `KL`, and how it is compared.

    Attributes:
        tolerance: how many times as large as the smallest squared error that of `kl` may be; below 1, it isn't chosen.
            Where products read what a layer normalization computes, it is 1 at the most.
    """

    tolerance: Annotated[float, msgspec.Meta(ge=0)] = 4.0


class Auto(Histogram, Observer):
    """Chooses the range of `kl`, or that of `mse` where the error of the former is much larger."""

    algorithm = "auto"
    options = AutoOptions

    def __init__(self, options: AutoOptions) -> None:
        """See `Observer`."""
        super().__init__(options.bins)
        self.kept = options.kept
        self.tolerance = options.tolerance

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`."""
        errors = SquaredErrors(self, readers, spec.steps)
        kl = replace(spread(*kl_range(self, spec, readers, self.kept), spec), algorithm=KL.algorithm)
        mse = replace(spread(*best_range(self, spec, errors), spec), algorithm=MeanSquaredError.algorithm)
        scales, zero_points = zip(*((c.parameters.scale, c.parameters.zero_point) for c in (kl, mse)), strict=True)
        kl_error, mse_error = errors(np.array(scales), np.array(zero_points))
        tolerance = min(self.tolerance, 1.0) if in_products in readers else self.tolerance
        return replace(kl, closest=mse) if kl_error <= tolerance * mse_error else mse
