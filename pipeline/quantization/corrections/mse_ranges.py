"""Gives every tensor the range with the smallest squared error, where calibration has chosen another one.

With `auto`, each tensor's range is chosen by itself (`observers.auto`), by what is likely. What all of these ranges
together come to is known only when the model runs: so both are tried. It changes scales, so it comes before
corrections that depend on them.
"""

from __future__ import annotations

import dataclasses

import msgspec

from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.corrections.correction import CannotCorrect, Correction
from pipeline.quantization.state import State
from pipeline.quantization.statistics import Need
from pipeline.quantization.table import CalibrationTable

LEAST_GAIN_DB = 0.5
"""By how much outputs have to be better: smaller gains are no more than what other samples change."""


class MSERanges(Correction):
    """See the module's docstring."""

    name = "mse_ranges"
    changes = "ranges of activations"
    changes_scales = True

    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return nothing: calibration has looked for these ranges."""
        del program, annotation
        return ()

    def least_gain_db(self, state: State) -> float:
        """See `Correction`."""
        del state
        return LEAST_GAIN_DB

    def apply(self, state: State) -> State:
        """See `Correction`."""
        table = with_smallest_errors(state)
        if table == state.calibrated():
            raise CannotCorrect("all ranges are those with the smallest squared error, or of another algorithm")
        return dataclasses.replace(state, table=table)


def with_smallest_errors(state: State) -> CalibrationTable:
    """Return the state's table with the ranges that have the smallest squared error, where calibration knows others.

    Tensors that have scales for each channel keep them.
    """
    table = state.calibrated()
    others = {n: e for n, e in state.closest.items() if not table.tensors[n].parameters.channel_scales}
    return msgspec.structs.replace(table, tensors={**table.tensors, **others})
