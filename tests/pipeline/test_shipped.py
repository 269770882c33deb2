"""Libraries as they are shipped, with all that the compiler fuses, give the reference's bytes.

Every network is built as `pipeline build` builds it, for the instruction sets of this machine, with the tiles of the
cost model and with others that tuning might choose, and run by one thread and by two.

By default, small networks are built for each instruction set, and large ones for one each, in turn. With
PIPELINE_TEST_EXAMPLES=2, or any number above 1, in the environment all are built for all, and run on more images.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.compiler.build import compile_program
from pipeline.compiler.lower import machine_of
from pipeline.compiler.tuning import TunedTile, TuningDatabase, tunable_layers
from pipeline.cpu import missing_features
from pipeline.ir.program import Program
from pipeline.kernels.isa import Capability
from pipeline.runtime.local import Runner
from pipeline.targets import Target, list_targets, load_target
from tests import properties
from tests.pipeline.fusions import FUSIONS, fired, operators
from tests.pipeline.real_models import MAKERS, answers, quantized

SUM, SWISH, LOOKUP, IMAGE, UNFOLDED, PADDING, SUMMAND, TOGETHER, ENLARGED, PICKED, TRANSPOSED, BATCH = FUSIONS

EXPECTED: Mapping[str, Mapping[str, int]] = {
    "digits": {SUM: 1, SWISH: 2, PADDING: 2, TOGETHER: 1},
    "text-direction": {SUM: 7, SWISH: 18, IMAGE: 1, PADDING: 12},
    "text-detection": {SWISH: 24, IMAGE: 1, PADDING: 13, TOGETHER: 1, ENLARGED: 4, TRANSPOSED: 2},
    "text-recognition": {SWISH: 28, IMAGE: 1, PADDING: 16, TOGETHER: 1},
    "efficientnet-lite0": {SUM: 9, IMAGE: 1, PADDING: 17},
    "efficientnet-lite0 in pairs": {SUM: 9, IMAGE: 1, PADDING: 17, BATCH: 1},
    "residual blocks": {SUM: 2, IMAGE: 1, PADDING: 4, SUMMAND: 1},
}
"""Which fusions fire on every instruction set, and how often at least."""

WITH_TABLES: Mapping[str, Mapping[str, int]] = {
    "text-recognition": {LOOKUP: 3},
}
"""Additional fusions for instruction sets that look tables up in vectors."""

WITH_MATRICES: Mapping[str, Mapping[str, int]] = {
    "text-direction": {UNFOLDED: 1},
    "text-detection": {UNFOLDED: 1},
    "text-recognition": {UNFOLDED: 1},
    "efficientnet-lite0": {UNFOLDED: 1},
    "efficientnet-lite0 in pairs": {UNFOLDED: 1},
    "residual blocks": {UNFOLDED: 1, PICKED: 1},
}
"""Additional fusions for matrix registers."""

THREADS = (1, 2)

SMALL = ("digits", "residual blocks")
"""Networks that are built in a few seconds."""


def shipped_targets() -> Mapping[str, Target]:
    """Return the package's targets, one for each instruction set."""
    loaded = (load_target(listing.name) for listing in list_targets() if listing.name != "host")
    return {target.instruction_set: target for target in loaded}


def runnable_targets() -> list[Target]:
    """Return those that this machine can run, the one that it builds for by default last."""
    host = load_target("host")
    here = [t for t in shipped_targets().values() if not missing_features(t.architecture, t.required_features)]
    return [*(t for t in here if t.instruction_set != host.instruction_set), host]


@dataclass(frozen=True)
class Case:
    """A network to build.

    Attributes:
        model: see `real_models`.
        target: what it is built for.
        tuned: whether with other tiles than the cost model's.
    """

    model: str
    target: Target
    tuned: bool

    def __str__(self) -> str:
        return f"{self.model}, {self.target.name}{', tuned' if self.tuned else ''}"


def cases() -> list[Case]:
    """Return what is built, see the module's docstring."""
    targets = runnable_targets()
    if properties.scale() > 1:
        return [Case(*combination) for combination in itertools.product(MAKERS, targets, (False, True))]
    large = [name for name in MAKERS if name not in SMALL]
    small = [(name, target, (i + j) % 2) for i, name in enumerate(SMALL) for j, target in enumerate(targets)]
    once = [(name, targets[-1 - i % len(targets)], i % 2) for i, name in enumerate(large)]
    return [Case(name, target, bool(tuned)) for name, target, tuned in (*small, *once)]


def other_tiles(program: Program, target: Target) -> TuningDatabase:
    """Return a database in which layers have other tiles than the cost model's, as many different ones as may be."""
    tiles = {}
    for number, (_, work, _) in enumerate(tunable_layers(program, target, machine_of(target))):
        model, *others = work.candidates()
        tile = others[number % len(others)] if others else model
        entry = {"mr": tile.mr, "nv": tile.nv, "microseconds": 1.0}
        tiles[work.key] = TunedTile(**entry, model_mr=model.mr, model_nv=model.nv, model_microseconds=2.0)
    return TuningDatabase(tiles=tiles)


def same_bytes(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_libraries_give_the_bytes_of_the_reference(case: Case, tmp_path: Path) -> None:
    model = quantized(case.model)
    observed = model.observed.program
    tuned = other_tiles(model.program, case.target) if case.tuned else None
    shipped = compile_program(model.program, case.target, tmp_path / "shipped.so", tuned=tuned)
    library = shipped
    if observed is not model.program:
        # More outputs, and otherwise the same: no fusion is lost by it.
        assert operators(observed, case.target) == operators(model.program, case.target)
        library = compile_program(observed, case.target, tmp_path / "observed.so", tuned=tuned)
    for index in range(5 if properties.scale() > 1 else 1):
        feeds = model.image(index)
        for threads in THREADS[: len(os.sched_getaffinity(0))]:
            outputs = Runner(library, threads).run(feeds)
            model.observed.check(feeds, outputs, answers(case.model, index))
            if library is not shipped:
                assert same_bytes(Runner(shipped, threads).run(feeds), outputs)


@pytest.mark.parametrize("target", shipped_targets().values(), ids=shipped_targets())
@pytest.mark.parametrize("name", MAKERS)
def test_fusions_fire(name: str, target: Target) -> None:
    found, isa = fired(quantized(name).program, target), machine_of(target).isa
    expected = dict(EXPECTED[name])
    if isa.has(Capability.FUSED_LOOKUP):
        expected |= WITH_TABLES.get(name, {})
    if isa.has(Capability.MATRIX_REGISTERS):
        expected |= WITH_MATRICES.get(name, {})
    # Whether unfolding an image pays is left to each instruction set's costs.
    assert set(found) - {UNFOLDED} == set(expected) - {UNFOLDED}
    assert found >= +type(found)(expected)


def test_every_fusion_fires_somewhere() -> None:
    assert {f for table in (EXPECTED, WITH_TABLES, WITH_MATRICES) for found in table.values() for f in found} == set(
        FUSIONS
    )
