"""Fitting finds constants with which the cost model chooses the quickest tiles, and leaves the code's as they are."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.cost_model import Layer, constants_of, fitted, loss
from pipeline.compiler.lower import machine_of
from pipeline.kernels.gemm import register_tile
from pipeline.kernels.gemm.register_tile import Workload
from pipeline.targets import load_target


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> list[Layer]:
    """Layers with the costs that a machine on which loads take four times as long would have."""
    machine = machine_of(load_target("x86-64-v4-vnni"))
    shapes = [(28, 128, 64), (14, 256, 128), (56, 64, 24), (7, 512, 512), (14, 512, 256), (112, 64, 8)]
    workloads = [Workload(pixels, channels, channels, steps, "int8", machine) for pixels, channels, steps in shapes]
    with monkeypatch.context() as other:
        other.setitem(register_tile.CYCLES_PER_LOAD, "int8", 4 * register_tile.CYCLES_PER_LOAD["int8"])
        return [Layer(w, {tile: w.cycles(tile) for tile in w.candidates()}) for w in workloads]


def test_the_loss_is_that_of_the_tiles_chosen(layers: list[Layer]) -> None:
    layer = layers[0]
    chosen, *_ = layer.workload.candidates()
    quick = dataclasses.replace(layer, costs={**dict.fromkeys(layer.costs, 2.0), chosen: 1.0})
    slow = dataclasses.replace(layer, costs={**dict.fromkeys(layer.costs, 2.0), chosen: 3.0})
    assert (quick.loss, slow.loss) == (0.0, 0.5)
    assert loss([quick, slow]) == 0.25


def test_fitting_finds_better_constants(layers: list[Layer]) -> None:
    constants = constants_of([layer.workload for layer in layers])
    before, values = loss(layers), [constant.value for constant in constants]
    found = fitted(layers, constants)
    assert [constant.value for constant in constants] == values
    for constant, value in found.items():
        constant.set(value)
    after = loss(layers)
    for constant, value in zip(constants, values, strict=True):
        constant.set(value)
    assert after < before
