"""Tuning: measured tiles are used, saved and checked. Which tile is the quickest depends on the machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.compiler.build import compile_program
from pipeline.compiler.lower import machine_of
from pipeline.compiler.tuning import TunedTile, TuningDatabase, tune
from pipeline.errors import OptionError, TableError
from pipeline.kernels.gemm.register_tile import RegisterTile
from pipeline.kernels.isa import instruction_set
from pipeline.kernels.machine import Machine
from pipeline.kernels.registry import workload
from pipeline.runtime.local import Runner
from pipeline.targets import load_target
from tests.kernels.convolutions import Convolution
from tests.kernels.harness import make_operation
from tests.runtime.models import quantized_model, sample


def entry(mr: int, nv: int) -> TunedTile:
    return TunedTile(mr=mr, nv=nv, microseconds=1.0, model_mr=1, model_nv=1, model_microseconds=2.0)


def other_tiles(database: TuningDatabase) -> TuningDatabase:
    """Return a database in which every layer has the smallest tile of all."""
    return TuningDatabase(tiles=dict.fromkeys(database.tiles, entry(1, 1)))


def test_a_measured_tile_takes_the_place_of_the_model_s_choice() -> None:
    operator, arguments = Convolution(1, 8, 8, 64, 64, (3, 3)).integer(seed=0)
    machine = Machine(instruction_set("avx512_vnni"))
    work = workload(make_operation(operator, *arguments), machine)
    assert work is not None
    tuned = dataclasses.replace(work, machine=dataclasses.replace(machine, tuned={work.key: (3, 2)}))
    assert tuned.choose() == RegisterTile(3, 2) != work.choose()


def test_a_tile_that_cannot_be_is_refused_by_name() -> None:
    operator, arguments = Convolution(1, 8, 8, 64, 64, (3, 3)).integer(seed=0)
    machine = Machine(instruction_set("avx512_vnni"))
    work = workload(make_operation(operator, *arguments), machine)
    assert work is not None
    wrong = dataclasses.replace(work, machine=dataclasses.replace(machine, tuned={work.key: (7, 2)}))
    with pytest.raises(TableError, match=r"7 pixels by 2 vectors for avx512_vnni .*Delete the entry"):
        wrong.choose()


def test_layers_are_measured_once_and_kept(tmp_path: Path) -> None:
    target, program, counted = load_target("host"), quantized_model().program, []
    database, layers = tune(program, target, TuningDatabase(), counted.append)
    assert {layer.tile for layer in layers} == set(database.tiles.values())
    assert counted == list(range(1, len(database.tiles) + 1))
    assert all(key.startswith(machine_of(target).isa.name) for key in database.tiles)
    database.save(tmp_path / "tuning.json")
    known = TuningDatabase.load(tmp_path / "tuning.json")
    assert known == database
    assert tune(program, target, known, counted.append) == (database, layers)
    assert len(counted) == len(database.tiles)


def test_a_database_changes_the_library_but_no_result(tmp_path: Path) -> None:
    target, program = load_target("host"), quantized_model().program
    database = other_tiles(tune(program, target, TuningDatabase())[0])
    plain = compile_program(program, target, tmp_path / "plain.so")
    tuned = compile_program(program, target, tmp_path / "tuned.so", tuned=database)
    (tmp_path / "again").mkdir()
    again = compile_program(program, target, tmp_path / "again" / "tuned.so", tuned=database)
    assert tuned.read_bytes() == again.read_bytes() != plain.read_bytes()
    expected = Runner(plain).run(sample(0))
    for name, value in Runner(tuned).run(sample(0)).items():
        np.testing.assert_array_equal(value, expected[name])


def test_only_what_runs_here_can_be_tuned() -> None:
    with pytest.raises(OptionError, match=r"android-arm64 can't be tuned here: this machine lacks"):
        tune(quantized_model().program, load_target("android-arm64"), TuningDatabase())


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"schema_version": 2}', '{"tiles": {"a": {"mr": 1}}}', '{"tiles": {}, "more": 1}'],
    ids=["empty", "no JSON", "newer", "incomplete", "unknown key"],
)
def test_a_wrong_database_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text(text)
    with pytest.raises(TableError, match=r"tuning\.json is wrong"):
        TuningDatabase.load(tmp_path / "tuning.json")
