"""`qnn.conv2d_lookup`: a convolution of any kind whose results are looked up in a table, where tables are quick."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.isa import Capability, instruction_sets
from pipeline.ops import QConv2dLookup
from tests.kernels.convolutions import Convolution, convolutions
from tests.kernels.tensors import assert_exact
from tests.kernels.test_conv2d import HALOS, LAYERS, Halo
from tests.kernels.test_depthwise_conv2d import LAYERS as DEPTHWISE_LAYERS


def assert_layer_is_exact(isa_name: str, convolution: Convolution, seed: int, halo: Halo = (0, 0, 0, 0)) -> None:
    operator, arguments = convolution.integer(seed)
    arguments.append(np.random.default_rng(seed).integers(0, 256, 256).astype("uint8"))
    if convolution.groups > 1 and convolution.channels_in == convolution.channels_out == 1:
        halo = (0, 0, 0, 0)
    fused = QConv2dLookup(**dataclasses.asdict(operator) | {"halo": halo, "halo_value": seed % 256})
    assert_exact(isa_name, fused, *arguments)


every_quick_table = pytest.mark.parametrize(
    "isa_name", [isa.name for isa in instruction_sets().values() if isa.has(Capability.FUSED_LOOKUP)]
)


@every_quick_table
@given(convolution=convolutions(), seed=st.integers(0, 2**32), halo=HALOS)
def test_codes_are_replaced_before_they_are_stored(
    isa_name: str, convolution: Convolution, seed: int, halo: Halo
) -> None:
    assert_layer_is_exact(isa_name, convolution, seed, halo)


@every_quick_table
@pytest.mark.parametrize("layers", [LAYERS, DEPTHWISE_LAYERS], ids=["dense", "depthwise"])
def test_layers_of_real_networks(isa_name: str, layers: dict[str, Convolution]) -> None:
    for layer in layers.values():
        assert_layer_is_exact(isa_name, layer, seed=1)
