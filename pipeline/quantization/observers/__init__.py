"""Calibration algorithms: how scale and zero point come out of the values that a tensor takes.

An algorithm is a class derived from `Observer`, in a module of its own, and a member of `ALGORITHMS`. See
docs/adding-a-calibration-algorithm.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pipeline.errors import OptionError, unknown_name
from pipeline.other_tools import ALGORITHMS as PADDLESLIMS
from pipeline.other_tools import hint
from pipeline.quantization.observers.abs_max import AbsMax
from pipeline.quantization.observers.auto import Auto
from pipeline.quantization.observers.averages import AverageMaximum, MovingAverage
from pipeline.quantization.observers.emd import EarthMover
from pipeline.quantization.observers.kl import KL
from pipeline.quantization.observers.min_max import MinMax
from pipeline.quantization.observers.mse import MeanSquaredError
from pipeline.quantization.observers.observer import Observer
from pipeline.quantization.observers.percentile import Percentile
from pipeline.quantization.spec import ObserverSpec

__all__ = ["ALGORITHMS", "Observer", "make_observer"]

ALGORITHMS: dict[str, type[Observer]] = {
    observer.algorithm: observer
    for observer in (AbsMax, Auto, AverageMaximum, EarthMover, KL, MeanSquaredError, MinMax, MovingAverage, Percentile)
}
"""Every calibration algorithm by name."""


def make_observer(spec: ObserverSpec) -> Observer:
    """Return a new observer of the algorithm, with the options, that a specification names.

    Raises:
        OptionError: there is no algorithm of that name, it has no such option, or an option's value is wrong.
    """
    if spec.algorithm not in ALGORITHMS:
        message = unknown_name("calibration algorithm", spec.algorithm, ALGORITHMS)
        raise OptionError(message + hint(PADDLESLIMS, spec.algorithm))
    observer = ALGORITHMS[spec.algorithm]
    return observer(_options(observer, spec.options))


def _options(observer: type[Observer], values: Mapping[str, object]) -> object:
    known = observer.options.__struct_fields__
    for key in values:
        if key not in known and not known:
            raise OptionError(f"The calibration algorithm {observer.algorithm} has no options, and so no {key!r}.")
        if key not in known:
            raise OptionError(unknown_name(f"option of the calibration algorithm {observer.algorithm}", key, known))
    try:
        return msgspec.convert(values, observer.options)
    except msgspec.ValidationError as error:
        raise OptionError(f"Options of the calibration algorithm {observer.algorithm}: {error}.") from error
