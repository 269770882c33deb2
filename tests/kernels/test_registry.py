"""The table of kernels: names, instruction sets, and that an operation always gets the same kernel."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import tvm_ffi

import pipeline.kernels  # noqa: F401
from pipeline.kernels import registry
from pipeline.kernels.isa import instruction_set, instruction_sets
from tests.kernels.convolutions import Convolution
from tests.kernels.examples import Example, examples
from tests.kernels.harness import generate, make_operation


@dataclass(frozen=True)
class Choice:
    convolution: Convolution
    isa: str
    kernel: str


CHOICES = {
    "vnni": Choice(Convolution(1, 8, 8, 64, 64, (3, 3)), "avx512_vnni", "qnn_conv2d_dot__avx512_vnni"),
    "avx512 has the one of sse41": Choice(Convolution(1, 8, 8, 64, 64, (3, 3)), "avx512", "qnn_conv2d_dot__avx512"),
    "no dot product": Choice(Convolution(1, 8, 8, 64, 64, (3, 3)), "neon", "qnn_conv2d_direct__neon"),
    "depthwise": Choice(
        Convolution(1, 8, 8, 1, 1, (3, 3), groups=64), "avx512_vnni", "qnn_conv2d_depthwise_dot__avx512_vnni"
    ),
    "depthwise, too few channels": Choice(
        Convolution(1, 8, 8, 1, 1, (3, 3), (2, 2), groups=8), "avx512_vnni", "qnn_conv2d_depthwise__avx512_vnni"
    ),
    "grouped": Choice(Convolution(1, 8, 8, 8, 8, (3, 3), groups=8), "avx512_vnni", "qnn_conv2d_dot__avx512_vnni"),
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_nearest_instruction_set_that_accepts_wins(choice: Choice) -> None:
    attrs, arguments = choice.convolution.integer(seed=0)
    isa = instruction_set(choice.isa)
    row = registry.select(make_operation(attrs, *arguments), isa)
    assert row.name_for(isa) == choice.kernel


@pytest.mark.parametrize("example", examples().values(), ids=examples())
@pytest.mark.parametrize("isa_name", sorted(instruction_sets()))
def test_operators_have_a_kernel_everywhere(example: Example, isa_name: str) -> None:
    isa = instruction_set(isa_name)
    operation = make_operation(example.attrs, *example.arguments, activations=example.activations)
    row = registry.select(operation, isa)
    assert row.isa in {ancestor.name for ancestor in isa.lineage()}
    assert any(r.isa == "portable" and r.accepts(operation) for r in registry.rows() if r.operator is row.operator)


def test_a_name_says_operator_and_variant_and_stands_for_one_generator() -> None:
    generators: dict[str, registry.Generator] = {}
    for row in registry.rows():
        assert row.isa in instruction_sets()
        assert row.name.startswith(row.operator.name.replace(".", "_") + "_")
        assert generators.setdefault(row.name, row.generate) is row.generate


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_generating_again_gives_the_same_function(choice: Choice) -> None:
    attrs, arguments = choice.convolution.integer(seed=0)
    operation, isa = make_operation(attrs, *arguments), instruction_set(choice.isa)
    assert tvm_ffi.structural_equal(generate(operation, isa).func, generate(operation, isa).func)
