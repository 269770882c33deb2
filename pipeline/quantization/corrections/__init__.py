"""Corrections: optional steps between calibration and realization, each switched on by an option of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pipeline.config.options import CorrectionOptions
from pipeline.quantization.corrections.adaround import AdaRound
from pipeline.quantization.corrections.bias_correction import BiasCorrection
from pipeline.quantization.corrections.correction import CannotCorrect, Correction
from pipeline.quantization.corrections.layerwise_bias_correction import LayerwiseBiasCorrection
from pipeline.quantization.corrections.mse_ranges import MSERanges
from pipeline.quantization.corrections.per_channel_activations import PerChannelActivations
from pipeline.quantization.corrections.weight_rounding import WeightRounding

__all__ = [
    "CORRECTIONS",
    "CannotCorrect",
    "Correction",
    "demanded_corrections",
    "wanted_corrections",
    "wants_equalization",
]

CORRECTIONS: dict[str, Correction] = {
    correction.name: correction
    for correction in (
        PerChannelActivations(),
        MSERanges(),
        WeightRounding(),
        AdaRound(),
        BiasCorrection(),
        LayerwiseBiasCorrection(),
    )
}
"""All corrections by the names of their options, in the order in which they are applied."""

BY_EFFORT: Mapping[str, frozenset[str]] = {
    "none": frozenset(),
    "fast": frozenset({"bias_correction"}),
    "balanced": frozenset(CORRECTIONS) - {"adaround", "mse_ranges"},
    "best": frozenset(CORRECTIONS) - {"adaround"},
}
"""The corrections that each effort switches on, by its name."""


def wanted_corrections(options: CorrectionOptions) -> tuple[Correction, ...]:
    """Return the corrections that are switched on, by their own switches or by the effort, in their order."""
    by_effort = BY_EFFORT[options.effort]
    return tuple(
        correction
        for name, correction in CORRECTIONS.items()
        if (name in by_effort if getattr(options, name) is None else getattr(options, name))
    )


def wants_equalization(options: CorrectionOptions) -> Literal["everywhere", "behind normalizations", "nowhere"]:
    """Return where channels are to be evened out before calibration, which is no correction of its outcome."""
    if options.equalization is not None:
        return "everywhere" if options.equalization else "nowhere"
    by_effort: Mapping[str, Literal["everywhere", "behind normalizations"]]
    by_effort = {"best": "everywhere", "balanced": "behind normalizations"}
    return by_effort.get(options.effort, "nowhere")


def demanded_corrections(options: CorrectionOptions) -> tuple[Correction, ...]:
    """Return the corrections that are switched on by their own switches."""
    return tuple(correction for name, correction in CORRECTIONS.items() if getattr(options, name))
