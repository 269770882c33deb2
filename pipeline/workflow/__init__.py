"""What the commands do, as functions: models are imported, quantized, built and measured, with progress and reports."""

from __future__ import annotations

from pipeline.workflow.building import build, build_model
from pipeline.workflow.measuring import check_reusable, measure, measured_on, time_libraries
from pipeline.workflow.mixing import quantize_within
from pipeline.workflow.progress import Progress
from pipeline.workflow.quantizing import quantize_model, quantized_already, verify, warn_if_quantized, with_recipe

__all__ = [
    "Progress",
    "build",
    "build_model",
    "check_reusable",
    "measure",
    "measured_on",
    "quantize_model",
    "quantize_within",
    "quantized_already",
    "time_libraries",
    "verify",
    "warn_if_quantized",
    "with_recipe",
]
