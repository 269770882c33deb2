"""Each pass over float programs changes these programs, but not what they compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from pipeline import importer, ops
from pipeline.importer import PASSES
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Dataflow, make_constant
from pipeline.ir.program import Program, TensorSpec
from tests.models import ModelBuilder, import_test_model, small_network
from tests.passes.execution import Array, Example, assert_close, assert_sound, random_feeds, run
from tests.properties import examples

SHAPE = (2, 4, 6, 5)


class Model(ModelBuilder):
    """An ONNX model with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape).astype("float32"))

    def positive(self, *shape: int) -> str:
        return self.constant(self.random.uniform(0.5, 2.0, shape).astype("float32"))

    def numbers(self, *values: float) -> list[str]:
        return [self.constant(np.float32(v)) for v in values]

    def shape(self, *sizes: int) -> str:
        return self.constant(np.array(sizes, "int64"))

    def conv(self, x: str, channels: int = 4, out: int = 4, kernel: int = 3, **attributes: Any) -> str:
        inputs = [self.weight(out, channels, kernel, kernel), self.weight(out)]
        return self.node("Conv", x, *inputs, pads=[kernel // 2] * 4, **attributes)

    def normalized(self, x: str, channels: int = 4) -> str:
        weights = [self.positive(channels), self.weight(channels), self.weight(channels), self.positive(channels)]
        return self.node("BatchNormalization", x, *weights)


def before(model: onnx.ModelProto, name: str) -> Program:
    """Return a model imported up to a pass."""
    index = [step.__name__ for step in PASSES].index(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importer, "PASSES", PASSES[:index])
        return import_test_model(model)


Build = Callable[[Model], str]


def example(name: str, build: Build, shape: Sequence[int] = SHAPE, tolerance: float = 0.0) -> Example:
    """Return an example for a pass: an ONNX model, imported up to it."""

    def make() -> Program:
        m = Model()
        output = build(m)
        return before(m.model({"x": shape}, output), name)

    return Example(make, tolerance)


def relax_example(*outputs: Callable[[relax.Var], relax.Expr], shape: Sequence[int] = (2, 3, 4)) -> Example:
    """Return an example written in Relax, for what the importer's earlier steps would already have removed."""

    def make() -> Program:
        builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(shape, "float32"))
        with builder.function("main", [x]):
            with builder.dataflow():
                results = [builder.emit_output(output(x)) for output in outputs]
            builder.emit_func_output(relax.Tuple(results) if len(results) > 1 else results[0])
        module = builder.get()
        types = [tensor_type(o) for o in Dataflow.of(module).outputs]
        specs = tuple(TensorSpec(f"y{i}", t.shape, t.dtype) for i, t in enumerate(types))
        return Program(module, (TensorSpec("x", tuple(shape), "float32"),), specs, "relax", "0" * 64)

    return Example(make)


def numbers(*shape: int) -> relax.Expr:
    value: Array = np.random.default_rng(0).standard_normal(shape)
    return make_constant(value.astype("float32"))


def pieces_of_a_layer_normalization(m: Model, square: str, twice: bool) -> str:
    mean = m.node("ReduceMean", "x", axes=[-1])
    centred = m.node("Sub", "x", mean)
    again = m.node("Sub", "x", mean) if twice else centred
    squared = m.node("Pow", again, *m.numbers(2)) if square == "Pow" else m.node("Mul", again, again)
    variance = m.node("Add", m.node("ReduceMean", squared, axes=[-1]), *m.numbers(1e-4))
    normalized = m.node("Div", centred, m.node("Sqrt", variance))
    return m.node("Add", m.weight(5), m.node("Mul", normalized, m.weight(5)))


def layer_norm(square: str, twice: bool) -> Example:
    return example("fuse_layer_norm", lambda m: pieces_of_a_layer_normalization(m, square, twice), tolerance=1e-5)


def layout(build: Build, shape: Sequence[int] = SHAPE, tolerance: float = 0.0) -> Example:
    return example("propagate_layout", build, shape, tolerance)


def enlarged(m: Model) -> str:
    scales = m.constant(np.array([1, 1, 2, 3], "float32"))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return m.node("Relu", m.node("Resize", m.conv("x"), "", scales, **how))


def sequence(m: Model) -> str:
    """An image is reshaped to a sequence, which attends to itself."""
    rows = m.node("Transpose", m.node("Reshape", m.conv("x"), m.shape(2, 4, 30)), perm=[0, 2, 1])
    return m.node("MatMul", m.node("Softmax", rows, axis=-1), m.node("Transpose", rows, perm=[0, 2, 1]))


def with_another_order(m: Model) -> str:
    """A sum of an image with permuted axes and one without."""
    return m.node("Add", m.conv("x"), m.node("Exp", "x"))


def padding(build: Build) -> Example:
    return example("fuse_padding", build)


def padded(m: Model, top: int, left: int, bottom: int, right: int) -> str:
    return m.node("Pad", m.node("Relu", "x"), m.shape(0, 0, top, left, 0, 0, bottom, right))


def affine(build: Build, shape: Sequence[int] = SHAPE) -> Example:
    return example("fuse_affine", build, shape, tolerance=1e-5)


def scaled(m: Model) -> str:
    two, three, four = m.numbers(2, 3, 4)
    return m.node("Div", m.node("Sub", m.node("Mul", two, m.conv("x")), three), four)


def dense(m: Model) -> str:
    return m.node("Mul", m.node("Add", m.node("MatMul", "x", m.weight(8, 6)), m.weight(6)), m.weight(6))


def transposed(m: Model) -> str:
    return m.node("ConvTranspose", m.node("Relu", "x"), m.weight(4, 4, 2, 2), strides=[2, 2])


def clip(build: Build, shape: Sequence[int] = SHAPE) -> Example:
    return example("fuse_clip", build, shape)


def limited(m: Model, x: str, low: float, high: float) -> str:
    return m.node("Clip", x, *m.numbers(low, high))


def unary(build: Build, tolerance: float = 0.0) -> Example:
    return example("fuse_unary", build, tolerance=tolerance)


def hard_swish(m: Model) -> str:
    three, zero, six = m.numbers(3, 0, 6)
    return m.node("Div", m.node("Mul", "x", m.node("Clip", m.node("Add", "x", three), zero, six)), six)


def gelu(m: Model) -> str:
    root, one, half = m.numbers(np.sqrt(2), 1, 0.5)
    return m.node("Mul", m.node("Mul", "x", m.node("Add", m.node("Erf", m.node("Div", "x", root)), one)), half)


def swish(m: Model) -> str:
    return m.node("Mul", "x", m.node("Sigmoid", "x"))


def reshapes(build: Build, shape: Sequence[int] = (2, 9, 8), tolerance: float = 1e-5) -> Example:
    return example("hoist_reshapes", build, shape, tolerance)


def wrapped(m: Model) -> str:
    y = m.node("Reshape", "x", m.shape(18, 8))
    return m.node("Reshape", m.node("Sigmoid", m.node("Gemm", y, m.weight(8, 6))), m.shape(2, 9, 6))


def empty_slice(x: relax.Expr) -> relax.Expr:
    """Return an empty slice [2,3,0] of a tensor [2,3,4]."""
    return relax.op.strided_slice(x, axes=[2], begin=[1], end=[1])


def sum_of_products(x: relax.Expr) -> relax.Expr:
    return relax.op.matmul(empty_slice(x), relax.op.permute_dims(empty_slice(x), [0, 2, 1]))


def dense_of_empty(x: relax.Expr) -> relax.Expr:
    return make_call(ops.Dense(), empty_slice(x), numbers(5, 0), numbers(5))


EXAMPLES: Mapping[str, Mapping[str, Example]] = {
    "replace_empty_tensors": {
        "concatenation": relax_example(lambda x: relax.op.concat([x, empty_slice(x)], 2)),
        "product": relax_example(sum_of_products),
        "dense": relax_example(dense_of_empty),
    },
    "fold_constants": {
        "sum": relax_example(lambda x: relax.op.add(x, relax.op.add(numbers(3, 1), numbers(4)))),
        "permutation": relax_example(lambda x: relax.op.matmul(x, relax.op.permute_dims(numbers(5, 4)))),
    },
    "fuse_layer_norm": {
        f"{square}, {2 if twice else 1} of differences": layer_norm(square, twice)
        for square in ("Pow", "Mul")
        for twice in (False, True)
    },
    "propagate_layout": {
        "functions between convolutions": layout(lambda m: m.conv(m.node("Sigmoid", m.node("Relu", m.conv("x"))))),
        "constants": layout(lambda m: m.node("Mul", m.node("Add", m.conv("x"), m.weight(4, 1, 1)), m.weight(6, 5))),
        "another order": layout(with_another_order),
        "concatenation": layout(lambda m: m.node("Concat", m.conv("x"), m.conv("x"), "x", axis=1)),
        "mean": layout(lambda m: m.node("ReduceMean", m.conv("x"), axes=[1], keepdims=1), tolerance=1e-5),
        "mean without axes": layout(
            lambda m: m.node("ReduceMean", m.conv("x"), axes=[1, 3], keepdims=0), tolerance=1e-5
        ),
        "largest without axes": layout(lambda m: m.node("ReduceMax", m.conv("x"), axes=[2], keepdims=0)),
        "resizing": layout(enlarged),
        "softmax over channels": layout(lambda m: m.node("Softmax", m.conv("x"), axis=1)),
        "flattened": layout(lambda m: m.node("Flatten", m.node("Relu", m.conv("x")))),
        "merged axes": layout(lambda m: m.node("Relu", m.node("Reshape", m.conv("x"), m.shape(2, 2, 2, 30)))),
        "an image of one pixel": layout(lambda m: m.node("Flatten", m.conv("x", kernel=1)), (2, 4, 1, 1)),
        "attention": layout(sequence, tolerance=1e-5),
        "permutation of a permutation": layout(
            lambda m: m.node("Transpose", m.node("Transpose", m.conv("x"), perm=[0, 2, 1, 3]), perm=[2, 1, 3, 0])
        ),
    },
    "fuse_padding": {
        "uneven": padding(lambda m: m.conv(padded(m, 0, 1, 2, 3))),
        "strided, and padded itself": padding(lambda m: m.conv(padded(m, 1, 0, 0, 1), strides=[2, 2])),
        "read by two": padding(lambda m: m.node("Add", m.conv(p := padded(m, 1, 1, 1, 1)), m.conv(p))),
        "that others read": padding(lambda m: m.node("Mul", p := padded(m, 1, 1, 1, 1), m.conv(p))),
    },
    "fuse_affine": {
        "batch normalization": affine(lambda m: m.normalized(m.conv("x"))),
        "numbers": affine(scaled),
        "dense": affine(dense, (3, 8)),
        "transposed convolution": affine(lambda m: m.normalized(transposed(m))),
        "batch normalization before a convolution": affine(lambda m: m.conv(m.normalized(m.node("Relu", m.conv("x"))))),
        "product that others read": affine(lambda m: m.node("Add", m.normalized(y := m.conv("x")), y)),
    },
    "fuse_clip": {
        "relu": clip(lambda m: m.node("Relu", m.conv("x"))),
        "limits": clip(lambda m: limited(m, m.conv("x"), -1, 2)),
        "limits after limits": clip(lambda m: limited(m, limited(m, m.conv("x"), -1, 2), 0, 6)),
        "limits that leave one value": clip(lambda m: limited(m, m.node("Relu", m.conv("x")), -3, -1)),
        "lower limit": clip(lambda m: m.node("Clip", m.conv("x"), *m.numbers(-1))),
        "upper limit": clip(lambda m: m.node("Clip", m.conv("x"), "", *m.numbers(1))),
        "sum": clip(lambda m: m.node("Relu", m.node("Add", m.conv("x"), m.node("Exp", "x")))),
        "sum with itself": clip(lambda m: m.node("Relu", m.node("Add", y := m.conv("x"), y))),
        "dense": clip(lambda m: m.node("Relu", m.node("MatMul", "x", m.weight(8, 6))), (3, 8)),
        "transposed convolution": clip(lambda m: m.node("Relu", transposed(m))),
        "what others read": clip(lambda m: m.node("Add", m.node("Relu", y := m.conv("x")), y)),
    },
    "fuse_unary": {
        "hard-swish": unary(hard_swish),
        "swish": unary(swish, 1e-5),
        "gelu": unary(gelu, 1e-5),
        "leaky relu": unary(lambda m: m.node("LeakyRelu", m.node("Tanh", "x"), alpha=0.1), 1e-5),
        "power": unary(lambda m: m.node("Pow", m.node("Abs", "x"), *m.numbers(1.5)), 1e-5),
        "functions of two tensors": unary(
            lambda m: m.node("Mul", m.node("Exp", m.conv("x")), m.node("Tanh", "x")), 1e-5
        ),
    },
    "hoist_reshapes": {
        "around a matrix product": reshapes(wrapped),
        "behind a softmax": reshapes(lambda m: m.node("Reshape", m.node("Softmax", "x", axis=-1), m.shape(3, 6, 8))),
        "behind a function": reshapes(
            lambda m: m.node("Reshape", m.node("Sigmoid", "x"), m.shape(6, 24)), tolerance=0.0
        ),
        "one after another": reshapes(
            lambda m: m.node("Exp", m.node("Reshape", m.node("Reshape", "x", m.shape(6, 24)), m.shape(16, 9)))
        ),
    },
    "remove_identities": {
        "reshape": relax_example(lambda x: relax.op.exp(relax.op.reshape(x, (2, 3, 4)))),
        "permutation": relax_example(lambda x: relax.op.exp(relax.op.permute_dims(x, [0, 1, 2]))),
        "conversion": relax_example(lambda x: relax.op.exp(relax.op.astype(x, "float32"))),
        "of an input that is an output": relax_example(lambda x: relax.op.reshape(x, (2, 3, 4)), relax.op.exp),
    },
}
"""For each pass programs that it changes."""


def test_every_pass_has_examples() -> None:
    assert [step.__name__ for step in PASSES] == list(EXAMPLES)
    assert all(EXAMPLES.values())


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, found in EXAMPLES.items() for case in found])
def test_a_pass_changes_no_value(name: str, case: str) -> None:
    chosen = EXAMPLES[name][case]
    step = next(step for step in PASSES if step.__name__ == name)
    assert_sound(step, chosen.make(), chosen.tolerance)


@given(st.integers(0, 10_000), st.integers(6, 16))
@examples(4)
def test_no_pass_changes_a_value_of_a_random_network(seed: int, size: int) -> None:
    program = before(small_network(seed, size), PASSES[0].__name__)
    feeds = random_feeds(program, seed)
    expected = run(program, feeds)
    for step in PASSES:
        program = dataclasses.replace(program, module=step(program.module))
        assert_close(run(program, feeds), expected, 1e-5)
