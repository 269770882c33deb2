"""Descriptions of Relax's operators: the references compute what TVM computes, and the traits hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

from pipeline.compiler.execute import Executor
from pipeline.ir.bridge import tensor_operands, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow
from pipeline.ir.program import Program, TensorSpec
from pipeline.ir.types import TensorType
from pipeline.ops import traits_of
from pipeline.ops.relax_operators import RelaxOperator, relax_operators
from pipeline.reference import execute_all

SHAPE = (2, 4, 6, 8)

Expr = Any


def _unary(name: str) -> Callable[[Expr], Expr]:
    return lambda x: getattr(op, name)(x)


def _binary(name: str) -> Callable[[Expr], Expr]:
    return lambda x: getattr(op, name)(x, relax.const(np.float32(1.5)))


def _resized(mode: str, method: str = "nearest_neighbor") -> Callable[[Expr], Expr]:
    return lambda x: op.image.resize2d(
        x, (8, 9), layout="NHWC", method=method, coordinate_transformation_mode=mode, rounding_method="floor"
    )


UNARY = (
    *("abs", "ceil", "cos", "erf", "exp", "floor", "log", "negative", "round"),
    *("rsqrt", "sigmoid", "sin", "sqrt", "square", "tanh"),
)
BINARY = ("add", "divide", "maximum", "minimum", "multiply", "power", "subtract")

FUNCTIONS = ("acos", "asin", "asinh", "atan", "atanh", "cosh", "isfinite", "isinf", "isnan", "sign", "sinh", "tan")
COMPARISONS = ("equal", "greater", "greater_equal", "less", "less_equal", "not_equal")
DIVISIONS = ("floor_divide", "floor_mod", "mod")
BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor")
LOGICAL = ("logical_and", "logical_or", "logical_xor")


def _of_integers(name: str) -> Callable[[Expr], Expr]:
    return lambda x: getattr(op, name)(op.astype(x, "int32"), relax.const(np.int32(5)))


def _of_booleans(name: str) -> Callable[[Expr], Expr]:
    return lambda x: getattr(op, name)(_binary("less")(x), op.greater(x, relax.const(np.float32(0.5))))


CALLS: dict[str, Callable[[Expr], Expr]] = {
    **{name: _unary(name) for name in (*UNARY, *FUNCTIONS)},
    **{name: _binary(name) for name in (*BINARY, *COMPARISONS, *DIVISIONS)},
    **{name: _of_integers(name) for name in BITWISE},
    **{name: _of_booleans(name) for name in LOGICAL},
    "acosh": lambda x: op.acosh(op.add(x, relax.const(np.float32(1)))),
    "mod, negative": lambda x: op.mod(op.negative(x), relax.const(np.float32(1.5))),
    "floor_mod, negative": lambda x: op.floor_mod(op.negative(x), relax.const(np.float32(1.5))),
    "bitwise_not": lambda x: op.bitwise_not(op.astype(x, "int32")),
    "logical_not": lambda x: op.logical_not(_binary("less")(x)),
    "where": lambda x: op.where(_binary("less")(x), x, op.negative(x)),
    "argmax": lambda x: op.argmax(x, 1),
    "argmin": lambda x: op.argmin(x, -1, keepdims=True),
    "prod": lambda x: op.prod(x, [3], keepdims=True),
    "variance": lambda x: op.variance(x, [1, 2]),
    "nn.softmax": lambda x: op.nn.softmax(x, 2),
    "nn.log_softmax": lambda x: op.nn.log_softmax(x, -1),
    "broadcast_to": lambda x: op.broadcast_to(op.mean(x, [1], keepdims=True), SHAPE),
    "scatter_elements": lambda x: op.scatter_elements(
        x, relax.const(np.full((2, 1, 6, 8), -1)), op.negative(op.mean(x, [1], keepdims=True)), 1
    ),
    "astype": lambda x: op.astype(x, "int32"),
    "nn.gelu": op.nn.gelu,
    "nn.gelu_tanh": op.nn.gelu_tanh,
    "nn.relu": op.nn.relu,
    "nn.relu6": op.nn.relu6,
    "nn.silu": op.nn.silu,
    "nn.softplus": op.nn.softplus,
    "nn.leakyrelu": lambda x: op.nn.leakyrelu(x, 0.25),
    "clip": lambda x: op.clip(x, 0.5, 2.0),
    "reshape": lambda x: op.reshape(x, (2, 48, 4)),
    "expand_dims": lambda x: op.expand_dims(x, 1),
    "squeeze": lambda x: op.squeeze(x),
    "flatten": op.flatten,
    "permute_dims": lambda x: op.permute_dims(x, (0, 3, 1, 2)),
    "permute_dims, backwards": op.permute_dims,
    "concat": lambda x: op.concat([x, x], 3),
    "strided_slice": lambda x: op.strided_slice(x, [1, 2], [3, 0], [0, 6], [-1, 2]),
    "take": lambda x: op.take(x, relax.const(np.array([3, 0])), 1),
    "gather_elements": lambda x: op.gather_elements(x, relax.const(np.full(SHAPE, 1)), axis=3),
    "image.resize2d": _resized("asymmetric"),
    "image.resize2d, half pixels": _resized("half_pixel"),
    "max": lambda x: op.max(x, [1, 2]),
    "mean": lambda x: op.mean(x, [1, 2], keepdims=True),
    "min": lambda x: op.min(x, [3]),
    "sum": lambda x: op.sum(x, [3]),
    "nn.avg_pool2d": lambda x: op.nn.avg_pool2d(x, (3, 3), (1, 1), (1, 1, 1, 1), layout="NHWC"),
    "nn.avg_pool2d, padding counted": lambda x: op.nn.avg_pool2d(
        x, (3, 3), (2, 2), (1, 1, 1, 1), layout="NHWC", count_include_pad=True
    ),
    "matmul": lambda x: op.matmul(x, op.permute_dims(x, (0, 1, 3, 2))),
    "cumsum": lambda x: op.cumsum(x, 1),
    "argsort": lambda x: op.argsort(x, 3),
    "sort": lambda x: op.sort(x, 2, True),
    "topk": lambda x: op.topk(x, 3, 1, ret_type="values"),
}
"""A call of each operator on a positive tensor of `SHAPE`; behind a comma stands what is particular about it."""


def program_of(make: Callable[[Expr], Expr]) -> Program:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(builder.normalize(make(x)))
        builder.emit_func_output(y)
    module: tvm.IRModule = builder.get()
    (output,) = Dataflow.of(module).outputs
    result = tensor_type(output)
    spec = (TensorSpec("x", SHAPE, "float32"),), (TensorSpec("y", result.shape, result.dtype),)
    return Program(module, *spec, "calls", "")


def last(program: Program) -> Binding:
    return Dataflow.of(program.module).bindings[-1]


def feeds(least: float = 0.125) -> dict[str, np.ndarray]:
    """Return distinct values, at least 0.125, in random order."""
    values = least + np.arange(np.prod(SHAPE)) / 64
    return {"x": np.random.default_rng(0).permutation(values).reshape(SHAPE).astype("float32")}


def test_every_operator_that_is_described_has_a_call() -> None:
    assert {f"relax.{name.partition(',')[0]}" for name in CALLS} == set(relax_operators())


@pytest.mark.parametrize("name", CALLS)
def test_the_reference_is_what_tvm_computes(name: str) -> None:
    program = program_of(CALLS[name])
    operator = traits_of(last(program))
    assert isinstance(operator, RelaxOperator)
    expected = execute_all(program, feeds())[last(program).var]
    (actual,) = Executor(program).run(feeds()).values()
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("least", [-1.0, 0.125])
@pytest.mark.parametrize("name", CALLS)
def test_no_result_is_below_its_bound(name: str, least: float) -> None:
    program = program_of(CALLS[name])
    values = execute_all(program, feeds(least))
    operands = (
        values[o] if isinstance(o, relax.Var) else o.value.numpy() for o in tensor_operands(last(program).value)
    )
    bound = traits_of(last(program)).lower_bound(*(float(o.min()) for o in operands))
    result = values[last(program).var]
    assert result[np.isfinite(result)].min() >= bound


@pytest.mark.parametrize("name", [*UNARY, *BINARY, "clip", "reshape", "permute_dims"])
def test_images_of_a_batch_do_not_mix(name: str) -> None:
    program = program_of(CALLS[name])
    assert traits_of(last(program)).splits_batch([TensorType(SHAPE, "float32")], ())
    x = feeds()["x"]
    whole = execute_all(program, {"x": x})[last(program).var]
    swapped = execute_all(program, {"x": x[::-1]})[last(program).var]
    np.testing.assert_array_equal(swapped, whole[::-1])


def test_no_other_images_are_taken_apart() -> None:
    for name, call in CALLS.items():
        traits = traits_of(last(program_of(call)))
        splits = traits.splits_batch([TensorType(SHAPE, "float32")], ())
        assert splits == (name in ("reshape", "permute_dims") or traits.elementwise), name


@pytest.mark.parametrize("method", ["nearest_neighbor", "linear", "cubic"])
def test_interpolation_that_goes_beyond_neighbours_has_no_bound(method: str) -> None:
    resize = traits_of(last(program_of(_resized("half_pixel", method))))
    assert resize.moves_values == (method != "cubic")
    assert resize.lower_bound(0.0) == (0.0 if method != "cubic" else -np.inf)


def test_an_operator_that_nobody_described_is_not_assumed_to_do_anything() -> None:
    traits = traits_of(last(program_of(lambda x: op.flip(x, 0))))
    assert not traits.splits_batch([TensorType(SHAPE, "float32")], ())
    assert traits.lower_bound(0.0) == -np.inf
