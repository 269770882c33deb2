"""Concatenation and nearest-neighbour resizing become one operator that computes the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tvm import relax

from pipeline import ops
from pipeline.compiler.execute import Executor
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Dataflow, make_constant
from pipeline.ir.program import Program, TensorSpec
from pipeline.passes.lowering.fuse_concatenations import fuse_concatenations
from pipeline.reference import execute


class Network:
    """A program of quantized tensors, written binding by binding."""

    def __init__(self, *shapes: Sequence[int]) -> None:
        self.inputs = [relax.Var(f"x{i}", relax.TensorType(shape, "uint8")) for i, shape in enumerate(shapes)]
        self.builder = relax.BlockBuilder()

    def program(self, *outputs: relax.Expr) -> Program:
        """Return the program of these outputs, expressions of `inputs`."""
        with self.builder.function("main", self.inputs):
            with self.builder.dataflow():
                results = [self.builder.emit_output(self.builder.normalize(o)) for o in outputs]
            self.builder.emit_func_output(relax.Tuple(results) if len(results) > 1 else results[0])
        module = self.builder.get()
        types = [tensor_type(o) for o in Dataflow.of(module).outputs]
        inputs = tuple(TensorSpec(x.name, tensor_type(x).shape, "uint8") for x in self.inputs)
        specs = tuple(TensorSpec(f"y{i}", t.shape, t.dtype) for i, t in enumerate(types))
        return Program(module, inputs, specs, "concatenation", "0" * 64)


def resized(x: relax.Expr, *size: int, mode: str = "asymmetric", rounding: str = "floor") -> relax.Expr:
    how = {"method": "nearest_neighbor", "coordinate_transformation_mode": mode, "rounding_method": rounding}
    return relax.op.image.resize2d(x, relax.ShapeExpr(size), layout="NHWC", **how)


def operators(program: Program) -> list[str]:
    return [b.operator for b in Dataflow.of(fuse_concatenations(program.module)).bindings]


def assert_unchanged(program: Program) -> None:
    random = np.random.default_rng(0)
    feeds = {i.name: random.integers(0, 256, i.shape).astype("uint8") for i in program.inputs}
    expected = execute(program, feeds)
    for name, value in Executor(program).run(feeds).items():
        np.testing.assert_array_equal(value, expected[name])


def test_enlarged_parts_of_a_concatenation_are_read_in_place() -> None:
    n = Network((1, 2, 3, 5), (1, 4, 12, 7))
    program = n.program(relax.op.concat([resized(n.inputs[0], 4, 12), n.inputs[1]], 3))
    assert operators(program) == ["nn.upsample_concat"]
    assert_unchanged(program)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_is_concatenated(axis: int) -> None:
    n = Network((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5))
    program = n.program(relax.op.concat(n.inputs, axis))
    assert "relax.concat" not in operators(program)
    assert_unchanged(program)


@pytest.mark.parametrize(
    ("mode", "rounding"),
    [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")],
)
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarging_by_whole_factors_repeats_pixels(mode: str, rounding: str, factor: int) -> None:
    n = Network((1, 3, 4, 5))
    program = n.program(resized(n.inputs[0], 3 * factor, 4, mode=mode, rounding=rounding))
    assert operators(program) == ["nn.upsample_concat"]
    assert_unchanged(program)


@pytest.mark.parametrize(
    ("size", "rounding"), [((4, 4), "floor"), ((1, 4), "floor"), ((6, 8), "ceil")], ids=["odd", "smaller", "rounded up"]
)
def test_other_resizing_stays(size: tuple[int, int], rounding: str) -> None:
    n = Network((1, 3, 4, 5))
    program = n.program(resized(n.inputs[0], *size, rounding=rounding))
    assert operators(program) == ["relax.image.resize2d"]


def test_a_table_is_looked_up_before_its_values_are_repeated() -> None:
    n = Network((1, 3, 4, 5))
    table = make_constant(np.random.default_rng(0).permutation(256).astype("uint8"))
    program = n.program(make_call(ops.QLookup(), resized(n.inputs[0], 6, 8), table))
    assert operators(program) == ["qnn.lookup", "nn.upsample_concat"]
    assert_unchanged(program)
