"""Corrections: optional steps between calibration and realization, each switched on by an option of its own."""

from __future__ import annotations

from pipeline.config.options import CorrectionOptions
from pipeline.quantization.corrections.bias_correction import BiasCorrection
from pipeline.quantization.corrections.correction import Correction

__all__ = ["CORRECTIONS", "Correction", "wanted_corrections"]

CORRECTIONS: dict[str, Correction] = {correction.name: correction for correction in (BiasCorrection(),)}
"""All corrections by the names of their options, in the order in which they are applied."""


def wanted_corrections(options: CorrectionOptions) -> tuple[Correction, ...]:
    """Return the corrections that are switched on, in their order."""
    return tuple(correction for name, correction in CORRECTIONS.items() if getattr(options, name))
