"""The loops that find a machine's limits compute what they claim, so that none of it was optimized away."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from pipeline.compiler.kernel_passes import code_generation
from pipeline.kernels.isa import instruction_set
from pipeline.kernels.probes import PEAK_ROUNDS, copy_probe, peak_probe
from pipeline.targets import load_target


def run(func: tvm.tirx.PrimFunc, *arguments: object) -> None:
    target = load_target("host").tvm_target()
    with code_generation():
        tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target)["main"](*arguments)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("tasks", [1, 3])
def test_each_lane_sums_up_all_of_its_products(dtype: str, tasks: int) -> None:
    isa = instruction_set(load_target("host").instruction_set)
    probe = peak_probe(dtype, isa)
    buffers = [tvm.runtime.tensor(np.ones(elements, kind)) for elements, kind in probe.buffers]
    run(probe.func, *buffers, tasks)
    depth = 1 if dtype == "float32" else isa.dot_depth
    result = buffers[-1].numpy()
    np.testing.assert_array_equal(result, np.full_like(result, PEAK_ROUNDS * depth))
    assert probe.multiply_adds == PEAK_ROUNDS * depth * result.size


def test_a_copy_moves_what_it_is_asked_for_and_nothing_else() -> None:
    isa = instruction_set(load_target("host").instruction_set)
    width = 4 * isa.lanes
    x = np.random.default_rng(0).integers(0, 256, 8 * width, "uint8")
    y = tvm.runtime.tensor(np.zeros_like(x))
    vectors, rounds, tasks = 2, 5, 3
    run(copy_probe(isa, x.size), tvm.runtime.tensor(x), y, vectors, rounds, tasks)
    moved = vectors * tasks * width
    np.testing.assert_array_equal(y.numpy()[:moved], x[:moved] + np.uint8(rounds - 1))
    np.testing.assert_array_equal(y.numpy()[moved:], 0)
