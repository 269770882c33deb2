"""`qnn.conv2d_hard_swish`: a convolution of any kind whose sums a hard-swish is computed of before they are rounded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.gemm.register_tile import FUNCTION, RESIDUAL, Ending, Workload
from pipeline.kernels.isa import instruction_set, instruction_sets
from pipeline.kernels.machine import Machine
from pipeline.ops import QConv2dHardSwish, QHardSwish
from tests.kernels.convolutions import Convolution, convolutions
from tests.kernels.tensors import assert_exact
from tests.kernels.test_conv2d import HALOS, Halo
from tests.kernels.test_depthwise_conv2d import LAYERS as DEPTHWISE_LAYERS
from tests.properties import examples


def assert_layer_is_exact(isa_name: str, convolution: Convolution, seed: int, halo: Halo = (0, 0, 0, 0)) -> None:
    operator, arguments = convolution.integer(seed)
    random = np.random.default_rng(seed)
    bits = 8 * (seed % 2)
    factor = random.uniform(-60, 900, len(arguments[1])).astype("float32")
    function = QHardSwish(seed % 256, 3, 250, "uint8", float(random.uniform(-9, 9)) if bits else 0.0, bits, 700.0)
    if convolution.groups > 1 and convolution.channels_in == convolution.channels_out == 1:
        halo = (0, 0, 0, 0)
    sums = dataclasses.replace(operator, output_dtype="float32", halo=halo, halo_value=seed % 256)
    assert_exact(isa_name, QConv2dHardSwish.of(sums, function), *arguments, factor)


every_instruction_set = pytest.mark.parametrize("isa_name", instruction_sets())


@every_instruction_set
@examples(3)
@given(convolution=convolutions(), seed=st.integers(0, 2**32), halo=HALOS)
def test_functions_are_computed_of_sums(isa_name: str, convolution: Convolution, seed: int, halo: Halo) -> None:
    assert_layer_is_exact(isa_name, convolution, seed, halo)


@every_instruction_set
def test_depthwise_layers_of_real_networks(isa_name: str) -> None:
    for layer in list(DEPTHWISE_LAYERS.values())[::6]:
        assert_layer_is_exact(isa_name, layer, seed=1)


@pytest.mark.parametrize("ending", [FUNCTION, RESIDUAL], ids=["function", "residual"])
def test_with_vnni_what_takes_long_is_computed_of_few_sums_at_a_time(ending: Ending) -> None:
    machine = Machine(instruction_set("avx512_vnni"))
    workload = Workload(80, 64, 64, 16, "int8", machine)
    with_ending = dataclasses.replace(workload, ending=ending)
    tile, small = workload.choose(), with_ending.choose()
    assert small.mr * small.nv <= ending.most_sums < tile.mr * tile.nv
    assert dataclasses.replace(with_ending, steps=200).choose() == dataclasses.replace(workload, steps=200).choose()
