"""Kernels on matrix registers: bit exact with AMX emulated, and on the CPU itself where it has it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ir.types import TensorType
from pipeline.kernels import registry
from pipeline.kernels.gemm.geometry import geometry_of
from pipeline.kernels.gemm.matrix_plan import make_matrix_plan
from pipeline.kernels.isa import instruction_set
from pipeline.kernels.isa.x86 import AMX_INT8
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Operation
from pipeline.kernels.probes import PEAK_ROUNDS, peak_probe
from pipeline.ops import Pad, QConv2dAdd
from tests.kernels.amx import emulated_amx
from tests.kernels.convolutions import Convolution, convolutions
from tests.kernels.execution import build
from tests.kernels.harness import assembly, generate, make_operation
from tests.kernels.instruction_sets import Runnable, compile_target, runnable, why_not
from tests.kernels.tensors import HALOS, Halo, assert_exact
from tests.kernels.test_conv2d import LAYERS, sums


@pytest.fixture(scope="module", params=["emulated", *([] if why_not("amx_int8") else ["on this CPU"])])
def matrices(request: pytest.FixtureRequest) -> Runnable:
    """Matrix registers, emulated or real."""
    if request.param == "emulated":
        return Runnable(emulated_amx(), runnable("avx512_vnni").target)
    return Runnable(AMX_INT8, compile_target("amx_int8"))


def variant(operation: Operation) -> str:
    return registry.select(operation, Machine(AMX_INT8)).variant


@given(convolution=convolutions(), seed=st.integers(0, 2**32), output_dtype=st.sampled_from(["uint8", "float32"]))
def test_convolution_is_bit_exact(matrices: Runnable, convolution: Convolution, seed: int, output_dtype: str) -> None:
    operator, arguments = convolution.integer(seed, output_dtype)
    assert_exact(matrices, operator, *arguments)


@given(convolution=convolutions(), seed=st.integers(0, 2**32), halo=HALOS, total=st.none() | sums())
def test_halo_and_residual_sum_are_bit_exact(
    matrices: Runnable, convolution: Convolution, seed: int, halo: Halo, total: dict[str, Any] | None
) -> None:
    operator, arguments = convolution.integer(seed)
    if total is not None:
        image = operator.infer(*(TensorType(a.shape, str(a.dtype)) for a in arguments))
        shape = Pad(total["residual_halo"]).infer(image).shape
        arguments.append(np.random.default_rng(seed).integers(0, 256, shape).astype("uint8"))
        operator = QConv2dAdd(**dataclasses.asdict(operator), **total)
    operator = dataclasses.replace(operator, halo=halo, halo_value=seed % 256)
    assert_exact(matrices, operator, *arguments, activations=(0, 4))


MATRIX_LAYERS = {
    **LAYERS,
    "two lines in a matrix register": Convolution(1, 9, 9, 128, 64, (3, 3)),
    "two lines with residual width": Convolution(2, 8, 8, 64, 48, (3, 3)),
    "stride 2, lines in step": Convolution(1, 14, 14, 32, 64, (2, 2), (2, 2)),
    "stride 2, lines out of step": Convolution(1, 13, 13, 32, 64, (3, 3), (2, 2)),
    "last step overlaps": Convolution(1, 6, 40, 27, 33, (3, 3)),
    "step longer than a segment": Convolution(1, 5, 30, 9, 33, (3, 7), (1, 2)),
    "dilated": Convolution(1, 12, 12, 64, 32, (3, 3), dilation=(2, 2)),
    "wide 1x1": Convolution(1, 5, 5, 320, 1280),
    "three vectors of channels": Convolution(1, 6, 24, 32, 48),
    "five vectors of channels": Convolution(1, 6, 24, 32, 80),
    "six vectors of channels": Convolution(1, 6, 24, 16, 96),
    "nine vectors of channels": Convolution(1, 6, 24, 24, 144),
    "long reduction": Convolution(1, 5, 19, 256, 48, (3, 3)),
    "one tile of pixels, many of channels": Convolution(1, 3, 5, 64, 512),
}


def test_layers_of_real_networks_are_bit_exact(matrices: Runnable) -> None:
    for layer in MATRIX_LAYERS.values():
        operator, arguments = layer.integer(seed=1)
        assert_exact(matrices, operator, *arguments)


@pytest.mark.parametrize(
    "name", ["resnet 3x3", "resnet 7x7 stem, stride 2", "two lines in a matrix register", "wide 1x1"]
)
def test_large_layers_use_matrix_registers(name: str) -> None:
    operator, arguments = MATRIX_LAYERS[name].integer(seed=1)
    assert variant(make_operation(operator, *arguments)) == "matrix"


@pytest.mark.parametrize("layer", [Convolution(1, 3, 35, 3, 32, (3, 3)), Convolution(1, 1, 1, 512, 1000)])
def test_small_ones_use_vectors(layer: Convolution) -> None:
    operator, arguments = layer.integer(seed=1)
    assert variant(make_operation(operator, *arguments)) == ""


def test_a_matrix_register_spans_lines_where_they_are_short() -> None:
    operator, arguments = MATRIX_LAYERS["two lines in a matrix register"].integer(seed=1)
    plan = make_matrix_plan(geometry_of(make_operation(operator, *arguments)), Machine(AMX_INT8))
    assert (plan.rows, plan.register_lines, plan.tile.columns) == (16, 2, 7)


@pytest.mark.parametrize(("width", "steps"), [(30, [64, 1]), (29, [60, 2])])
def test_a_step_is_longer_than_a_segment_if_something_is_behind_it(width: int, steps: list[int]) -> None:
    operator, arguments = Convolution(1, 5, width, 9, 32, (3, 7), (1, 2)).integer(seed=1)
    plan = make_matrix_plan(geometry_of(make_operation(operator, *arguments)), Machine(AMX_INT8))
    assert [plan.depth, plan.steps] == steps


def test_the_loop_that_finds_the_peak_sums_up_all_of_its_products(matrices: Runnable) -> None:
    probe = peak_probe("int8", matrices.isa)
    x, w, y = (np.ones(elements, kind) for elements, kind in probe.buffers)
    arguments = [tvm.runtime.tensor(a) for a in (x, w, y)]
    build([probe.func], matrices.target)["kernel0"](*arguments, 2)
    rounds = PEAK_ROUNDS // 16
    np.testing.assert_array_equal(arguments[2].numpy(), np.full_like(y, rounds * 64))
    assert probe.multiply_adds == rounds * 64 * y.size


def test_instructions_are_those_of_amx() -> None:
    operator, arguments = Convolution(1, 8, 18, 64, 64, (3, 3)).integer(seed=0)
    kernel = generate(make_operation(operator, *arguments), instruction_set("amx_int8"))
    text = assembly(kernel, compile_target("amx_int8"))
    for instruction in ("ldtilecfg", "tileloadd", "tdpbusd", "tilestored", "tilerelease"):
        assert f"\t{instruction}" in text
    assert "vpdpbusd" not in text
