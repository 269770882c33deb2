"""What the compiler fuses into convolutions, and what it doesn't."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.api import quantize
from pipeline.compiler.execute import Executor
from pipeline.ir.bridge import operator_of
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.ops import QConv2d
from pipeline.passes.lowering.fuse_hard_swishes import fuse_hard_swishes
from pipeline.passes.lowering.fuse_image_inputs import fuse_image_inputs
from pipeline.passes.lowering.fuse_lookups import fuse_lookups
from pipeline.passes.lowering.fuse_residual_adds import fuse_residual_adds
from pipeline.passes.lowering.separate_padding import separate_padding
from pipeline.passes.lowering.write_halos import write_halos
from tests.models import ModelBuilder, import_test_model, run_onnx


class Network(ModelBuilder):
    """A network with 8 channels everywhere, and random weights."""

    def conv(self, x: str, group: int = 1, kernel: int = 3) -> str:
        random = np.random.default_rng(len(self.nodes))
        weight = random.standard_normal((8, 8 // group, kernel, kernel)).astype("float32")
        return self.node("Conv", x, self.constant(weight), pads=[kernel // 2] * 4, group=group)

    def quantized(self, output: str) -> Program:
        """Return the int8 program, with a last convolution added whose result is float32, so that `output` is uint8."""
        program = import_test_model(self.model({"x": [1, 8, 6, 6]}, self.conv(output, kernel=1)))
        samples = [np.random.default_rng(0).standard_normal((1, 8, 6, 6)).astype("float32")]
        return quantize(program, samples).program


def operators(program: Program) -> list[str]:
    module = write_halos(separate_padding(fuse_image_inputs(fuse_residual_adds(program.module))))
    return [b.operator for b in Dataflow.of(module).bindings]


def test_rows_of_padding_are_known() -> None:
    n = Network()
    module = separate_padding(n.quantized(n.conv("x")).module)
    convolutions = [c for b in Dataflow.of(module).bindings if isinstance(c := operator_of(b.value), QConv2d)]
    assert [c.zero_rows for c in convolutions] == [(1, 1), (0, 0)]


def test_a_residual_sum_joins_the_convolution_before_it() -> None:
    n = Network()
    x = n.conv("x")
    found = operators(n.quantized(n.node("Add", n.conv(x), x)))
    assert found.count("qnn.conv2d_add") == 1
    assert "qnn.add" not in found


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_convolutions_one_takes_the_other_up(swapped: bool) -> None:
    n = Network()
    operands = [n.conv("x"), n.conv("x", kernel=1)]
    found = operators(n.quantized(n.node("Add", *(operands[::-1] if swapped else operands))))
    assert (found.count("qnn.conv2d"), found.count("qnn.conv2d_add")) == (2, 1)


def test_a_convolution_added_to_itself_stays_a_sum() -> None:
    n = Network()
    y = n.conv("x")
    model = n.model({"x": [1, 8, 6, 6]}, n.node("Add", y, y))
    x = np.random.default_rng(0).standard_normal((1, 8, 6, 6)).astype("float32")
    program = import_test_model(model)
    np.testing.assert_allclose(
        Executor(program).run({"x": x})[program.outputs[0].name], run_onnx(model, {"x": x})[0], rtol=1e-4, atol=1e-4
    )


def test_a_convolution_that_others_read_keeps_its_result() -> None:
    n = Network()
    y = n.conv("x")
    total = n.node("Add", y, n.node("MaxPool", n.conv("x"), kernel_shape=[3, 3], pads=[1] * 4))
    found = operators(n.quantized(n.node("Mul", total, n.node("Sigmoid", y))))
    assert "qnn.add" in found
    assert "qnn.conv2d_add" not in found


def test_a_number_for_each_channel_is_not_a_residual() -> None:
    n = Network()
    found = operators(n.quantized(n.node("Add", n.conv("x"), n.node("GlobalAveragePool", n.conv("x")))))
    assert "qnn.add" in found


def test_a_convolution_writes_the_padding_of_the_next() -> None:
    n = Network()
    found = operators(n.quantized(n.conv(n.conv("x", kernel=1), group=8)))
    assert "nn.pad" not in found


def test_padding_of_a_tensor_that_others_read_stays() -> None:
    n = Network()
    y = n.conv("x", kernel=1)
    found = operators(n.quantized(n.node("Add", n.conv(y), n.conv(y, kernel=1))))
    assert found.count("nn.pad") == 1


def test_a_sum_finds_what_it_adds_inside_its_halo() -> None:
    n = Network()
    y = n.conv("x", kernel=1)
    found = operators(n.quantized(n.node("Add", n.conv(y), y)))
    assert "nn.pad" not in found


def test_what_a_1x1_convolution_adds_stays_without_halo() -> None:
    n = Network()
    y = n.conv("x", kernel=1)
    found = operators(n.quantized(n.node("Add", n.conv(n.conv(y), kernel=1), y)))
    assert found.count("nn.pad") == 1


def test_pooling_writes_the_padding_of_the_next() -> None:
    n = Network()
    found = operators(n.quantized(n.conv(n.node("MaxPool", n.conv("x", kernel=1), kernel_shape=[2, 2]))))
    assert "nn.pad" not in found


def test_float_convolutions_are_extended_alike() -> None:
    n = Network()
    x = n.conv("x")
    total = n.node("Relu", n.node("Add", n.conv(n.conv(x, kernel=1), group=8, kernel=1), n.conv(x)))
    found = operators(import_test_model(n.model({"x": [1, 8, 6, 6]}, n.conv(total))))
    assert found.count("nn.conv2d_add") == 1
    assert found.count("nn.pad") == 2


def test_an_image_is_quantized_transposed_and_padded_in_one_pass() -> None:
    b = ModelBuilder()
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype("float32")
    y = b.node("Conv", "x", b.constant(weight), pads=[1] * 4)
    program = import_test_model(b.model({"x": [1, 3, 6, 6]}, y))
    quantized = quantize(program, [np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype("float32")])
    assert operators(quantized.program)[:2] == ["qnn.quantize_image", "qnn.conv2d"]


def test_many_channels_are_transposed_first() -> None:
    n = Network()
    assert "qnn.quantize_image" not in operators(n.quantized(n.conv("x")))


def test_depthwise_convolutions_stay_as_they_are() -> None:
    n = Network()
    found = operators(n.quantized(n.conv(n.conv("x", group=8))))
    assert found.count("nn.pad") == 2


def looked_up(output: str, n: Network) -> list[str]:
    return [b.operator for b in Dataflow.of(fuse_lookups(n.quantized(output).module)).bindings]


@pytest.mark.parametrize("group", [1, 8], ids=["dense", "depthwise"])
def test_a_convolution_looks_its_activation_up(group: int) -> None:
    n = Network()
    found = looked_up(n.node("Sigmoid", n.conv("x", group=group)), n)
    assert "qnn.conv2d_lookup" in found
    assert "qnn.lookup" not in found


@pytest.mark.parametrize("group", [1, 8], ids=["dense", "depthwise"])
def test_a_convolution_computes_a_hard_swish_of_its_sums(group: int) -> None:
    n = Network()
    y = n.node("HardSwish", n.conv("x", group=group))
    found = [b.operator for b in Dataflow.of(fuse_hard_swishes(n.quantized(y).module)).bindings]
    assert "qnn.conv2d_hard_swish" in found
    assert "qnn.hard_swish" not in found


def test_a_convolution_that_others_read_is_looked_up_later() -> None:
    n = Network()
    y = n.conv("x")
    assert "qnn.lookup" in looked_up(n.node("Add", n.node("Sigmoid", y), y), n)


def test_sums_are_looked_up_later() -> None:
    n = Network()
    x = n.conv("x")
    quantized = n.quantized(n.node("Sigmoid", n.node("Add", n.conv(x), x)))
    found = [b.operator for b in Dataflow.of(fuse_lookups(fuse_residual_adds(quantized.module))).bindings]
    assert "qnn.conv2d_add" in found
    assert "qnn.lookup" in found
