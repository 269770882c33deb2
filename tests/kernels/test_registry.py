"""The table of kernels: what each requires, that an operation always gets the same one, and what it is called."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import tvm_ffi

from pipeline.kernels import registry
from pipeline.kernels.depthwise import dot
from pipeline.kernels.isa import Capability, instruction_set, instruction_sets
from pipeline.kernels.machine import Machine
from pipeline.kernels.naming import kernel_name
from pipeline.kernels.ops import conv
from pipeline.ops import QConv2dLookup, operators
from tests.kernels.convolutions import Convolution
from tests.kernels.examples import Example, examples, examples_for
from tests.kernels.harness import generate, make_operation


@dataclass(frozen=True)
class Choice:
    convolution: Convolution
    isa: str
    kernel: str


DENSE, DEPTHWISE = Convolution(1, 8, 8, 64, 64, (3, 3)), Convolution(1, 8, 8, 1, 1, (3, 3), groups=64)
FEW = Convolution(1, 8, 8, 1, 1, (3, 3), (2, 2), groups=8)
CHOICES = {
    "vnni": Choice(DENSE, "avx512_vnni", "conv2d_u8s8_3x3_64x64__avx512_vnni"),
    "products of blocks": Choice(DENSE, "neon", "conv2d_block_u8s8_3x3_64x64__neon"),
    "too few values for a block": Choice(
        Convolution(1, 8, 8, 3, 8, (3, 3)), "neon_i8mm", "conv2d_u8s8_3x3_3x8__neon_i8mm"
    ),
    "matrix registers": Choice(DENSE, "amx_int8", "conv2d_matrix_u8s8_3x3_64x64__amx_int8"),
    "too few pixels for matrix registers": Choice(
        Convolution(1, 1, 1, 64, 32), "amx_int8", "conv2d_u8s8_1x1_64x32__amx_int8"
    ),
    "depthwise": Choice(DEPTHWISE, "avx512_vnni", "conv2d_depthwise_dot_u8s8_3x3_64__avx512_vnni"),
    "depthwise, narrower vectors": Choice(DEPTHWISE, "avx_vnni", "conv2d_depthwise_dot_u8s8_3x3_64__avx_vnni"),
    "depthwise, neither": Choice(DEPTHWISE, "portable", "conv2d_depthwise_u8s8_3x3_64__portable"),
    "depthwise, too few channels": Choice(FEW, "avx512_vnni", "conv2d_depthwise_u8s8_3x3s2_8__avx512_vnni"),
    "grouped": Choice(
        Convolution(1, 8, 8, 4, 8, (3, 1), (1, 2), groups=8), "avx2", "conv2d_u8s8_3x1s1x2_32x64g8__avx2"
    ),
}


def name_of(operator_example: Example, isa_name: str) -> str:
    operation = make_operation(
        operator_example.operator, *operator_example.arguments, activations=operator_example.activations
    )
    isa = instruction_set(isa_name)
    return kernel_name(operation, registry.select(operation, Machine(isa)).variant, isa)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_the_first_kernel_whose_requirements_are_met_and_that_accepts_is_chosen_and_named(choice: Choice) -> None:
    operator, arguments = choice.convolution.integer(seed=0)
    assert name_of(Example(operator, tuple(arguments)), choice.isa) == choice.kernel


@pytest.mark.parametrize("isa_name", instruction_sets())
def test_every_instruction_set_has_a_kernel_for_all_that_programs_for_it_hold(isa_name: str) -> None:
    isa = instruction_set(isa_name)
    for example in examples_for(isa).values():
        operation = make_operation(example.operator, *example.arguments, activations=example.activations)
        assert isa.has(*registry.select(operation, Machine(isa)).requires)


def test_where_tables_are_not_quick_there_is_no_kernel_for_a_fused_lookup() -> None:
    example = next(e for e in examples().values() if isinstance(e.operator, QConv2dLookup))
    operation = make_operation(example.operator, *example.arguments, activations=example.activations)
    with pytest.raises(LookupError, match=r"No kernel for QConv2dLookup.* on neon"):
        registry.select(operation, Machine(instruction_set("neon")))


def test_every_capability_is_something_that_a_kernel_requires_or_asks_for() -> None:
    required = {capability for entry in registry.KERNELS for capability in entry.requires}
    assert set(Capability) - required == {Capability.FUSED_MULTIPLY_ADD, Capability.NEIGHBOUR_PRODUCTS}


@pytest.mark.parametrize("name", sorted(operators()))
def test_an_operator_s_kernels_are_tried_from_special_to_general_and_have_names_of_their_own(name: str) -> None:
    entries = [e for e in registry.KERNELS if e.operator is operators()[name]]
    assert len({e.variant for e in entries}) == len(entries)
    *special, general = entries or [None]
    for entry in special:
        assert entry.variant, "the general one is the last one"
        assert set(entry.requires) > set(general.requires) or entry.accepts is not general.accepts


NAME = re.compile(
    r"(?P<operator>[a-z][a-z0-9_]*?)_(?P<types>([usf]\d+)+)_(?P<shape>[a-z\d]+(_[a-z\d]+)?)__(?P<isa>[a-z][a-z0-9_]*)"
)


@pytest.mark.parametrize("isa_name", instruction_sets())
def test_names_can_be_read(isa_name: str) -> None:
    """Operator, types, shape and instruction set stand in a name, whatever the operator."""
    known = {n.rpartition(".")[2] for n in operators()}
    for example in examples_for(instruction_set(isa_name)).values():
        match = NAME.fullmatch(name_of(example, isa_name))
        assert match is not None
        assert any(match["operator"].startswith(n) for n in known)
        assert match["isa"] == isa_name


def test_names_tell_types_and_shapes() -> None:
    shown = {name: name_of(example, "avx2") for name, example in examples().items() if "conv" not in name.lower()}
    assert shown["quantized add"] == "add_u8_64x3x2x21__avx2"
    assert shown["add"] == "add_f32_16x5x21__avx2"
    assert shown["dense"] != shown["float dense"]
    assert shown["matrix product"] == "matmul_u8_32x15x32__avx2"
    assert shown["dequantize"] == "dequantize_u8f32_1360__avx2"
    assert shown["lookup"] == "lookup_vectors_u8_1344__avx2"
    assert shown["lookup, short"] == "lookup_u8_192__avx2"


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_generating_again_gives_the_same_function(choice: Choice) -> None:
    operator, arguments = choice.convolution.integer(seed=0)
    operation, isa = make_operation(operator, *arguments), instruction_set(choice.isa)
    first = generate(operation, isa).func
    for built in (conv._built, dot._built):
        built.cache_clear()
    assert tvm_ffi.structural_equal(first, generate(operation, isa).func)


@pytest.mark.parametrize("convolution", [DENSE, DEPTHWISE], ids=["dense", "depthwise"])
def test_a_layer_with_other_weights_has_the_function_that_was_generated(convolution: Convolution) -> None:
    operator, (x, *constants) = convolution.integer(seed=0)
    isa = instruction_set("avx512_vnni")
    in_order, reversed_ = (
        generate(make_operation(operator, x, *weights), isa) for weights in (constants, [c[::-1] for c in constants])
    )
    assert in_order.func is reversed_.func
