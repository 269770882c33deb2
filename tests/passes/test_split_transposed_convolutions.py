"""SplitTransposedConvolutions: transposed convolutions become convolutions and depth-to-space, and compute the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from pipeline import ops
from pipeline.compiler.execute import Executor
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Dataflow, make_constant
from pipeline.ir.program import Program, TensorSpec
from pipeline.passes.lowering.split_transposed_convolutions import split_transposed_convolutions
from pipeline.reference import execute
from tests.properties import examples


def program_of(operator: ops.Operator, x: np.ndarray, *constants: np.ndarray) -> Program:
    """Return a program of one operator, whose arguments except for x are constant."""
    builder = relax.BlockBuilder()
    parameter = relax.Var("x", relax.TensorType(x.shape, str(x.dtype)))
    with builder.function("main", [parameter]):
        with builder.dataflow():
            y = builder.emit_output(make_call(operator, parameter, *(make_constant(c) for c in constants)))
        builder.emit_func_output(y)
    module = builder.get()
    result = tensor_type(Dataflow.of(module).outputs[0])
    specs = (TensorSpec("x", x.shape, str(x.dtype)),), (TensorSpec("y", result.shape, result.dtype),)
    return Program(module, *specs, "one", "0" * 64)


@dataclass(frozen=True)
class Deconvolution:
    """A transposed convolution of x: [batch,height,width,group_in * groups]."""

    height: int
    width: int
    group_in: int
    group_out: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (2, 2)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 1

    def integer(self, seed: int, output_dtype: str = "uint8") -> Program:
        random = np.random.default_rng(seed)
        operator = ops.QConv2dTranspose(
            output_zero_point=100,
            output_min=3,
            output_max=250,
            input_zero_point=int(random.integers(0, 256)),
            output_dtype=output_dtype,
            **self._geometry(),
        )
        out = self.groups * self.group_out
        bias, multiplier = random.integers(-5000, 5000, out, "int32"), random.uniform(1e-4, 1e-2, out)
        weight = random.integers(-127, 128, (out, *self.kernel, self.group_in), "int8")
        return program_of(operator, self._x("uint8"), weight, bias, multiplier.astype("float32"))

    def floating(self, seed: int) -> Program:
        random = np.random.default_rng(seed)
        out = self.groups * self.group_out
        weight = random.standard_normal((out, *self.kernel, self.group_in)).astype("float32")
        bias = random.standard_normal(out).astype("float32")
        return program_of(ops.Conv2dTranspose(**self._geometry(), clip_min=-1.0), self._x("float32"), weight, bias)

    def _x(self, dtype: str) -> np.ndarray:
        return np.empty((self.batch, self.height, self.width, self.groups * self.group_in), dtype)

    def _geometry(self) -> dict:
        names = ("strides", "padding", "output_padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}


def split(program: Program) -> Program:
    return replace(program, module=split_transposed_convolutions(program.module))


def quantized_values(program: Program, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, program.inputs[0].shape, "uint8")


@st.composite
def deconvolutions(draw: st.DrawFn) -> Deconvolution:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    sizes, kernel, strides, dilation = (
        draw(s)
        for s in (st.tuples(st.integers(1, 5), st.integers(1, 5)), st.tuples(*[st.integers(1, 5)] * 2), pair, pair)
    )
    extra = tuple(draw(st.integers(0, 2)) for _ in range(2))
    padding = []
    for i in range(2):
        full = strides[i] * (sizes[i] - 1) + dilation[i] * (kernel[i] - 1) + 1 + extra[i]
        before = draw(st.integers(0, min(full - 1, 7)))
        padding.append((before, draw(st.integers(0, min(full - 1 - before, 7)))))
    return Deconvolution(
        *sizes,
        group_in=draw(st.integers(1, 3)),
        group_out=draw(st.integers(1, 3)),
        kernel=kernel,
        strides=strides,
        padding=(padding[0][0], padding[1][0], padding[0][1], padding[1][1]),
        output_padding=extra,
        dilation=dilation,
        groups=draw(st.integers(1, 3)),
        batch=draw(st.integers(1, 2)),
    )


@given(case=deconvolutions(), seed=st.integers(0, 2**32 - 1))
@examples(150)
def test_any_transposed_convolution_is_a_convolution_and_a_depth_to_space(case: Deconvolution, seed: int) -> None:
    program = case.integer(seed)
    parts = split(program)
    assert [b.operator for b in Dataflow.of(parts.module).bindings] == ["qnn.conv2d", "nn.depth_to_space"]
    feeds = {"x": quantized_values(program, seed)}
    np.testing.assert_array_equal(execute(parts, feeds)["y"], execute(program, feeds)["y"])


CASES = {
    "2x2, as after a text detector": Deconvolution(10, 9, 24, 24, (2, 2)),
    "2x2 to one channel": Deconvolution(20, 20, 24, 1, (2, 2)),
    "4x4, as in a generator": Deconvolution(7, 6, 32, 16, (4, 4), padding=(1, 1, 1, 1)),
    "3x3 with output padding": Deconvolution(7, 6, 16, 20, (3, 3), padding=(1, 1, 1, 1), output_padding=(1, 1)),
    "depthwise, as for bilinear upsampling": Deconvolution(9, 8, 1, 1, (4, 4), padding=(1, 1, 1, 1), groups=21),
    "grouped": Deconvolution(5, 5, 4, 6, (3, 2), (2, 1), groups=3, batch=2),
    "stride 1": Deconvolution(6, 6, 8, 8, (3, 3), (1, 1), (1, 1, 1, 1)),
    "dilated": Deconvolution(6, 5, 8, 8, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("output_dtype", ["uint8", "float32"])
def test_compiled_integers_are_the_reference_s(case: Deconvolution, output_dtype: str) -> None:
    program = case.integer(0, output_dtype)
    feeds = {"x": quantized_values(program, 1)}
    np.testing.assert_array_equal(Executor(program).run(feeds)["y"], execute(program, feeds)["y"])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_compiled_floats_are_close_to_the_reference_s(case: Deconvolution) -> None:
    program = case.floating(0)
    feeds = {"x": np.random.default_rng(1).standard_normal(program.inputs[0].shape).astype("float32")}
    np.testing.assert_allclose(Executor(program).run(feeds)["y"], execute(program, feeds)["y"], rtol=1e-4, atol=1e-4)
