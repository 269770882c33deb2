"""Which kernels a program gets, and what they are called in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.compiler.lower import lower_until_kernels, machine_of
from pipeline.compiler.records import is_kernel
from pipeline.compiler.select_kernels import select_kernels
from pipeline.ir.program import Program
from pipeline.kernels.isa import instruction_sets
from pipeline.targets import load_target
from tests.models import ModelBuilder, import_test_model


def convolutions(*sizes: int) -> Program:
    """Return a network of 3x3 convolutions of 8 channels, whose outputs have these heights and widths, halved."""
    b, random = ModelBuilder(), np.random.default_rng(0)
    y = "x"
    for before, after in zip((sizes[0], *sizes), sizes, strict=False):
        if after < before:
            y = b.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
        weight = b.constant(random.standard_normal((8, 8, 3, 3)).astype("float32"))
        y = b.node("Relu", b.node("Conv", y, weight, pads=[1, 1, 1, 1]))
    return import_test_model(b.model({"x": [1, 8, sizes[0], sizes[0]]}, y))


def kernels(program: Program, isa_name: str = "avx2") -> list[str]:
    """Return the names of a program's kernels for convolutions."""
    target = load_target("x86-64-v3")
    machine = dataclasses.replace(machine_of(target), isa=instruction_sets()[isa_name])
    module = select_kernels(lower_until_kernels(program.module, target.tvm_target(), machine), machine, None)
    names = [gv.name_hint for gv, function in module.functions.items() if is_kernel(function)]
    return sorted(name for name in names if name.startswith("conv2d"))


@pytest.mark.parametrize("isa_name", ["avx2", "amx_int8"])
def test_kernels_that_differ_only_in_what_their_names_do_not_tell_are_numbered(isa_name: str) -> None:
    name = f"conv2d_f32_3x3_8x8__{isa_name}"
    assert kernels(convolutions(16, 8, 4), isa_name) == [name, f"{name}__2", f"{name}__3"]


def test_operators_that_are_alike_share_a_kernel() -> None:
    # All but the last write the halo of the next one.
    name = "conv2d_f32_3x3_8x8__avx2"
    assert kernels(convolutions(8, 8, 8, 8)) == [name, f"{name}__2"]
