"""PickStridedPixels: strided 1x1 convolutions on short lines read copied pixels, and compute the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.kernels.isa import instruction_set
from pipeline.passes.lowering.pick_strided_pixels import pick_strided_pixels
from pipeline.reference import execute
from tests.kernels.convolutions import Convolution
from tests.passes.test_split_transposed_convolutions import program_of


def picked(layer: Convolution, isa_name: str = "amx_int8") -> tuple[Program, Program, np.ndarray]:
    """Return a program of one convolution before and after, and an input."""
    operator, (x, *constants) = layer.integer(seed=5)
    program = program_of(operator, x, *constants)
    after = pick_strided_pixels(program.module, instruction_set(isa_name))
    return program, dataclasses.replace(program, module=after), x


def operators(program: Program) -> list[str]:
    return [b.operator for b in Dataflow.of(program.module).bindings]


@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 1)])
def test_short_lines_are_picked_without_changing_a_byte(strides: tuple[int, int]) -> None:
    before, after, x = picked(Convolution(2, 13, 7, 40, 20, (1, 1), strides))
    assert operators(after) == ["nn.max_pool2d", "qnn.conv2d"]
    np.testing.assert_array_equal(execute(after, {"x": x})["y"], execute(before, {"x": x})["y"])


@pytest.mark.parametrize(
    "layer",
    [
        Convolution(1, 28, 28, 40, 20, (1, 1), (2, 2)),
        Convolution(1, 13, 13, 40, 20, (1, 1), (1, 1)),
        Convolution(1, 13, 13, 40, 20, (3, 3), (2, 2)),
        Convolution(1, 13, 13, 40, 20, (1, 1), (2, 2), groups=2),
    ],
    ids=["long lines", "no strides", "larger kernel", "groups"],
)
def test_others_stay_as_they_are(layer: Convolution) -> None:
    _, after, _ = picked(layer)
    assert operators(after) == ["qnn.conv2d"]


def test_vectors_take_one_pixel_at_a_time_and_need_no_neighbours() -> None:
    _, after, _ = picked(Convolution(1, 13, 13, 40, 20, (1, 1), (2, 2)), "avx512_vnni")
    assert operators(after) == ["qnn.conv2d"]
