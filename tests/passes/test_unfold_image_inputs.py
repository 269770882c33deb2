"""UnfoldImageInputs: when the rows of an image are unfolded, and that the program computes the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from pipeline.api import quantize
from pipeline.compiler.execute import Executor
from pipeline.ir.bridge import make_call, operator_of
from pipeline.ir.dataflow import Dataflow, constant, make_constant
from pipeline.kernels.isa import instruction_set, instruction_sets
from pipeline.kernels.machine import Machine
from pipeline.ops import Operator, QConv2d, QuantizeImage
from pipeline.passes.lowering.unfold_image_inputs import unfold_image_inputs
from pipeline.reference import execute
from tests.kernels.convolutions import integer_arguments
from tests.models import ModelBuilder, import_test_model
from tests.properties import examples

Array = npt.NDArray[np.generic]
Shape = tuple[int, int, int, int]


def image_network(
    shape: Shape,
    out: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    halo: Shape = (0, 0, 0, 0),
    *,
    shared: bool = False,
    **attributes: object,
) -> tvm.IRModule:
    """Return a program with a convolution of a quantized image; if `shared`, the image is an output, too."""
    random = np.random.default_rng(0)
    _, *constants = integer_arguments(random, (1,), (out, *kernel, shape[1] // int(str(attributes.get("groups", 1)))))
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            image = builder.emit(make_call(QuantizeImage(20.0, 3, halo, 9), x))
            convolution = QConv2d(strides=strides, input_zero_point=3, output_zero_point=7, **attributes)  # type: ignore[arg-type]
            y = builder.emit(make_call(convolution, image, *(make_constant(c) for c in constants)))
            result = builder.emit_output(relax.Tuple([y, image]) if shared else y)
        builder.emit_func_output(result)
    return builder.get()


def run(module: tvm.IRModule, x: Array) -> Array:
    """Return the result of a module's last operator, by the operators' definitions."""
    flow = Dataflow.of(module)
    values = {flow.params[0]: x}
    for binding in flow.bindings:
        operator = operator_of(binding.value)
        assert operator is not None
        arguments = [values[a] if isinstance(a, relax.Var) else constant(a) for a in binding.value.args]
        values[binding.var] = operator.evaluate(*arguments)
    return values[flow.outputs[0]]


def operators(module: tvm.IRModule) -> list[Operator | None]:
    return [operator_of(b.value) for b in Dataflow.of(module).bindings]


def unfolding(module: tvm.IRModule, isa_name: str) -> tuple[int, int]:
    """Return (rows, row_step) that are chosen for an instruction set."""
    quantization = operators(unfold_image_inputs(module, Machine(instruction_set(isa_name))))[0]
    assert isinstance(quantization, QuantizeImage)
    return quantization.rows, quantization.row_step


@pytest.mark.parametrize("isa_name", instruction_sets())
@given(data=st.data())
@examples(15)
def test_unfolding_changes_no_result(isa_name: str, data: st.DataObject) -> None:
    kernel = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    strides = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    halo = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    height, width = (k + data.draw(st.integers(0, 9)) for k in kernel)
    shape = (data.draw(st.integers(1, 2)), data.draw(st.integers(1, 4)), height, width)
    module = image_network(shape, data.draw(st.integers(1, 70)), kernel, strides, halo)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32") * 5
    np.testing.assert_array_equal(
        run(unfold_image_inputs(module, Machine(instruction_set(isa_name))), x), run(module, x)
    )


def test_a_small_kernel_becomes_one_segment() -> None:
    module = image_network((1, 3, 64, 64), 32, (3, 3), (2, 2))
    assert unfolding(module, "avx512_vnni") == (3, 2)
    assert unfolding(module, "amx_int8") == (3, 2)


def test_tile_registers_take_three_rows_of_a_large_kernel() -> None:
    module = image_network((1, 3, 64, 64), 64, (7, 7), (2, 2))
    assert unfolding(module, "amx_int8") == (3, 2)
    assert unfolding(module, "avx512_vnni") == (7, 2)


@pytest.mark.parametrize(("isa_name", "expected"), [("avx512_vnni", (0, 0)), ("portable", (1, 1))])
def test_rows_of_padding_are_known_unless_they_are_unfolded(isa_name: str, expected: tuple[int, int]) -> None:
    module = image_network((1, 3, 64, 64), 32, (3, 3), (2, 2), (1, 1, 1, 1), zero_rows=(1, 1))
    convolution = operators(unfold_image_inputs(module, Machine(instruction_set(isa_name))))[1]
    assert isinstance(convolution, QConv2d)
    assert convolution.zero_rows == expected


@pytest.mark.parametrize("isa_name", ["portable", "avx512_vnni"])
def test_what_fills_its_steps_stays_as_it_is(isa_name: str) -> None:
    # Four channels fill a dot-product instruction.
    assert unfolding(image_network((1, 4, 64, 64), 64, (3, 3), (2, 2)), isa_name) == (1, 1)


def test_without_dot_products_nothing_is_unfolded() -> None:
    assert unfolding(image_network((1, 3, 64, 64), 64, (3, 3), (2, 2)), "portable") == (1, 1)


@pytest.mark.parametrize("attributes", [{"shared": True}, {"groups": 3}, {"dilation": (2, 1)}])
def test_images_of_other_convolutions_stay_as_they_are(attributes: dict[str, object]) -> None:
    module = image_network((1, 3, 64, 64), 33, (3, 3), (2, 2), **attributes)  # type: ignore[arg-type]
    assert unfolding(module, "amx_int8") == (1, 1)


@pytest.mark.parametrize("padding", [[0, 0, 0, 0], [3, 3, 3, 3], [2, 2, 3, 3]])
def test_compiled_networks_give_what_the_reference_gives(padding: list[int]) -> None:
    b = ModelBuilder()
    random = np.random.default_rng(0)
    weight = random.standard_normal((40, 3, 7, 7)).astype("float32")
    stem = b.node("Relu", b.node("Conv", "x", b.constant(weight), pads=padding, strides=[2, 2]))
    y = b.node("Conv", stem, b.constant(random.standard_normal((8, 40, 1, 1)).astype("float32")))
    program = import_test_model(b.model({"x": [2, 3, 37, 61]}, y))
    samples = [random.standard_normal((2, 3, 37, 61)).astype("float32") for _ in range(2)]
    quantized = quantize(program, samples[:1]).program
    expected, actual = (f({"x": samples[1]}) for f in (lambda x: execute(quantized, x), Executor(quantized).run))
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)
