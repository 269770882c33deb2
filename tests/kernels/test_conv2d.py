"""`qnn.conv2d` and `nn.conv2d` without padding: equal to the NumPy reference for every shape and instruction set."""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tvm
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.ir.types import TensorType
from pipeline.kernels.gemm import register_tile
from pipeline.kernels.gemm.register_tile import MIN_TAIL_BYTES
from pipeline.kernels.isa import Capability, InstructionSet, instruction_set, instruction_sets
from pipeline.kernels.isa.x86.vectors import X86InstructionSet
from pipeline.ops import Add, Conv2dAdd, Pad, QConv2dAdd
from pipeline.quantization.weights import short_multipliers
from tests.kernels.convolutions import Convolution, convolutions, stored_signed
from tests.kernels.harness import assembly, generate, make_operation
from tests.kernels.instruction_sets import compile_target
from tests.kernels.tensors import HALOS, Halo, assert_close, assert_exact

LAYERS = {
    "resnet 3x3": Convolution(1, 16, 16, 64, 64, (3, 3)),
    "resnet 7x7 stem, stride 2": Convolution(1, 23, 63, 3, 64, (7, 7), (2, 2)),
    "mobilenet 3x3 stem, stride 2": Convolution(1, 13, 227, 3, 32, (3, 3), (2, 2)),
    "resnet 1x1 shortcut, stride 2": Convolution(1, 28, 28, 64, 128, (1, 1), (2, 2)),
    "mobilenet 1x1 of 7x7": Convolution(1, 7, 7, 512, 96),
    "detection head, few channels": Convolution(1, 13, 13, 96, 1),
    "grouped, as resnext": Convolution(1, 16, 16, 4, 4, (3, 3), groups=32),
    "channel multiplier": Convolution(1, 9, 9, 1, 4, (3, 3), groups=8),
    "transformer patches": Convolution(1, 32, 32, 3, 48, (16, 16), (16, 16)),
    "one and a half vectors of 16": Convolution(2, 9, 9, 16, 24, (3, 3)),
    "two and a half vectors of 16": Convolution(1, 7, 9, 96, 40),
    "less than half a vector of 16": Convolution(1, 9, 9, 24, 4),
}


def is_x86_with_multiply_adds(isa: InstructionSet) -> bool:
    return isinstance(isa, X86InstructionSet) and isa.has(Capability.FUSED_MULTIPLY_ADD)


@given(
    convolution=convolutions(),
    seed=st.integers(0, 2**32),
    output_dtype=st.sampled_from(["uint8", "int8", "float32"]),
    signed=st.booleans(),
)
def test_integer_convolution_is_bit_exact(
    isa_name: str, convolution: Convolution, seed: int, output_dtype: str, signed: bool
) -> None:
    operator, (x, *constants) = convolution.integer(seed, output_dtype)
    assert_exact(isa_name, operator, stored_signed(x, signed), *constants)


@given(
    convolution=convolutions(),
    seed=st.integers(0, 2**32),
    zero_rows=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    signed=st.booleans(),
)
@example(convolution=Convolution(2, 9, 9, 64, 24, (3, 3)), seed=0, zero_rows=(1, 1), signed=True)
@example(convolution=Convolution(1, 9, 65, 16, 24, (5, 5), (2, 2), groups=2), seed=0, zero_rows=(2, 2), signed=False)
@example(convolution=Convolution(1, 12, 9, 16, 24, (3, 3), (1, 1), (2, 2)), seed=0, zero_rows=(2, 2), signed=True)
def test_rows_of_padding_are_left_out(
    isa_name: str, convolution: Convolution, seed: int, zero_rows: tuple[int, int], signed: bool
) -> None:
    operator, (x, *constants) = convolution.integer(seed)
    top, bottom = zero_rows
    x[:, :top] = x[:, max(0, convolution.height - bottom) :] = operator.input_zero_point
    operator = dataclasses.replace(operator, zero_rows=zero_rows)
    assert_exact(isa_name, operator, stored_signed(x, signed), *constants)


@st.composite
def sums(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the attributes of a residual sum."""
    low, high = sorted(draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    multipliers = st.integers(0, 2**15 - 1)
    return {
        "residual_zero_point": draw(st.integers(0, 255)),
        "convolution_multiplier": draw(multipliers),
        "residual_multiplier": draw(multipliers),
        "shift": draw(st.integers(10, 15)),
        "sum_zero_point": draw(st.integers(0, 255)),
        "sum_min": low,
        "sum_max": high,
        "residual_halo": draw(HALOS),
    }


TAILS = st.sampled_from([0, MIN_TAIL_BYTES])
"""What a tail has to save: nothing, so that there are many, or as in real networks."""


@given(
    convolution=convolutions(),
    seed=st.integers(0, 2**32),
    halo=HALOS,
    total=st.none() | sums(),
    least=TAILS,
    output_dtype=st.sampled_from(["uint8", "int8"]),
    signed=st.booleans(),
)
def test_halo_and_residual_sum_are_bit_exact(
    isa_name: str,
    convolution: Convolution,
    seed: int,
    halo: Halo,
    total: dict[str, Any] | None,
    least: int,
    output_dtype: str,
    signed: bool,
) -> None:
    operator, arguments = convolution.integer(seed, output_dtype)
    if total is not None:
        image = operator.infer(*(TensorType(a.shape, str(a.dtype)) for a in arguments))
        shape = Pad(total["residual_halo"]).infer(image).shape
        arguments.append(stored_signed(np.random.default_rng(seed).integers(0, 256, shape).astype("uint8"), signed))
        operator = QConv2dAdd(**dataclasses.asdict(operator), **total)
    operator = dataclasses.replace(operator, halo=halo, halo_value=seed % 256 - 128 * (output_dtype == "int8"))
    with mock.patch.object(register_tile, "MIN_TAIL_BYTES", least):
        assert_exact(isa_name, operator, *arguments, activations=(0, 4))


@given(convolution=convolutions(), seed=st.integers(0, 2**32), least=TAILS)
def test_float_convolution_is_close(isa_name: str, convolution: Convolution, seed: int, least: int) -> None:
    operator, arguments = convolution.floating(seed)
    with mock.patch.object(register_tile, "MIN_TAIL_BYTES", least):
        assert_close(isa_name, operator, *arguments, rtol=1e-4, atol=1e-4)


@given(convolution=convolutions(), seed=st.integers(0, 2**32), halo=HALOS, residual_halo=HALOS)
def test_float_halo_and_residual_sum_are_close(
    isa_name: str, convolution: Convolution, seed: int, halo: Halo, residual_halo: Halo
) -> None:
    operator, arguments = convolution.floating(seed)
    image = operator.infer(*(TensorType(a.shape, str(a.dtype)) for a in arguments))
    shape = Pad(residual_halo).infer(image).shape
    arguments.append(np.random.default_rng(seed).standard_normal(shape).astype("float32"))
    fused = Conv2dAdd.of(operator, Add(-1.0, 2.0)).with_halo(halo, 0.5)
    fused = dataclasses.replace(fused, residual_halo=residual_halo)
    assert_close(isa_name, fused, *arguments, activations=(0, 3), rtol=1e-4, atol=1e-4)


def test_layers_of_real_networks_are_bit_exact(isa_name: str) -> None:
    for layer in LAYERS.values():
        operator, arguments = layer.integer(seed=1)
        assert_exact(isa_name, operator, *arguments)


@pytest.mark.parametrize("isa_name", ["avx512_vnni", "neon_i8mm"])
def test_no_weights_are_stored_twice_where_channels_are_whole_vectors(isa_name: str) -> None:
    operator, arguments = Convolution(1, 7, 7, 512, 336).integer(seed=0)
    with mock.patch.object(register_tile, "MIN_TAIL_BYTES", 0):
        kernel = generate(make_operation(operator, *arguments), instruction_set(isa_name))
    _, weights, bias, multiplier = kernel.arguments
    assert [np.size(constant) for constant in (weights, bias, multiplier)] == [512 * 336, 336, 336]


@pytest.mark.parametrize("channels", [24, 40, 18, 4])
def test_half_a_vector_multiplies_the_last_channels_if_it_holds_them(channels: int) -> None:
    operator, arguments = Convolution(1, 9, 9, 96, channels).integer(seed=0)
    kernel = generate(make_operation(operator, *arguments), instruction_set("avx512_vnni"))
    products = re.findall(r"vpdpbusd\s.*", assembly(kernel, compile_target("avx512_vnni")))
    assert {product.split("%")[-1][:3] for product in products} == ({"ymm", "zmm"} if channels > 16 else {"ymm"})


def test_padding_is_refused() -> None:
    operator, arguments = Convolution(1, 8, 8, 4, 4, (3, 3)).integer(seed=0)
    padded = type(operator)(padding=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="SeparatePadding"):
        generate(make_operation(padded, *arguments), instruction_set("portable"))


@pytest.mark.parametrize(
    ("isa_name", "instruction"),
    [
        ("sse41", "pmaddwd"),
        ("avx2", "vpmaddwd"),
        ("avx512", "vpmaddwd"),
        ("avx_vnni", "vpdpbusd"),
        ("avx512_vnni", "vpdpbusd"),
    ],
)
def test_dot_products_are_single_instructions(isa_name: str, instruction: str) -> None:
    operator, arguments = Convolution(1, 8, 8, 16, 32, (3, 3)).integer(seed=0)
    kernel = generate(make_operation(operator, *arguments), instruction_set(isa_name))
    assert instruction in assembly(kernel, compile_target(isa_name))


@pytest.mark.parametrize(
    "isa", [isa for isa in instruction_sets().values() if is_x86_with_multiply_adds(isa)], ids=lambda isa: isa.name
)
def test_sums_that_are_bits_of_floats_are_not_converted(isa: InstructionSet) -> None:
    operator, (x, weight, bias, multiplier) = Convolution(1, 8, 8, 16, 32, (3, 3)).integer(seed=0)
    operation = make_operation(operator, x, weight, bias, short_multipliers(multiplier))
    text = assembly(generate(operation, isa), compile_target(isa.name))
    assert re.search("vfmadd|vaddps", text)
    assert "cvtdq2ps" not in text


def test_avx_vnni_needs_no_avx512() -> None:
    operator, arguments = Convolution(1, 8, 8, 16, 32, (3, 3)).integer(seed=0)
    kernel = generate(make_operation(operator, *arguments), instruction_set("avx_vnni"))
    text = assembly(kernel, tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "alderlake"}))
    assert "vpdpbusd" in text
    assert not re.findall(r"zmm|%k[0-7]|[xy]mm(?:1[6-9]|2\d|3[01])", text)


@pytest.mark.parametrize(
    ("isa_name", "triple", "cpu"),
    [
        ("portable", "x86_64-linux-gnu", "x86-64"),
        ("portable", "x86_64-linux-gnu", "x86-64-v2"),
        ("neon", "aarch64-linux-gnu", "cortex-a76"),
        ("neon", "aarch64-linux-android", "generic"),
    ],
)
@pytest.mark.parametrize("channels_out", [3, 32], ids=["scalar stores", "vector stores"])
def test_rounding_needs_no_math_library(isa_name: str, triple: str, cpu: str, channels_out: int) -> None:
    operator, arguments = Convolution(1, 8, 8, 16, channels_out, (3, 3)).integer(seed=0)
    kernel = generate(make_operation(operator, *arguments), instruction_set(isa_name))
    text = assembly(kernel, tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu}))
    assert re.findall(r"\b(?:l?l?rint|nearbyint|l?l?round)f?\b", text) == []
