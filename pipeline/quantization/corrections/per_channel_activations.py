"""Gives each channel of a tensor a scale of its own, where only depthwise convolutions read it.

See `quantization.channel_scales`. All other tensors get the ranges with the smallest squared error, as in
`mse_ranges`: what speaks for other ranges are quiet channels of depthwise layers' inputs, which have scales of their
own now. It changes scales, so it comes before corrections that depend on them.
"""

from __future__ import annotations

import dataclasses

import msgspec

from pipeline.ir.program import Program
from pipeline.quantization import channel_scales
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.corrections.correction import CannotCorrect, Correction
from pipeline.quantization.corrections.mse_ranges import with_smallest_errors
from pipeline.quantization.state import State
from pipeline.quantization.statistics import Need

LEAST_GAIN_DB = 0.5
"""By how much outputs have to be better: ranges of channels differ more from sample to sample than those of tensors."""


class PerChannelActivations(Correction):
    """See the module's docstring."""

    name = "per_channel_activations"
    changes = "scales of tensors that only depthwise convolutions read, and ranges of others"
    changes_scales = True

    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return the ranges of the channels of all such tensors."""
        return tuple(place.need for place in channel_scales.places(program, annotation).values())

    def least_gain_db(self, state: State) -> float:
        """See `Correction`."""
        del state
        return LEAST_GAIN_DB

    def apply(self, state: State) -> State:
        """See `Correction`."""
        table, entries = with_smallest_errors(state), {}
        for name, place in channel_scales.places(state.uncorrected, state.annotation).items():
            entry = table.tensors[name]
            if not entry.parameters.channel_scales:
                entries[name] = channel_scales.choose(place, entry, state.statistics[place.need])
        if not entries:
            raise CannotCorrect("no tensor with one scale is there that only depthwise convolutions read")
        return dataclasses.replace(
            state,
            annotation=channel_scales.with_channel_scales(state.annotation, tuple(entries)),
            table=msgspec.structs.replace(table, tensors={**table.tensors, **entries}),
        )
