"""Each phase of the compiler changes these programs, but not what they compute."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from pipeline import ops
from pipeline.compiler.codegen import generate_code
from pipeline.compiler.lower import Phase, machine_of, phases
from pipeline.ir.bridge import make_call
from pipeline.ir.dataflow import make_constant
from pipeline.ir.program import Program
from pipeline.kernels.isa import instruction_set
from pipeline.kernels.machine import Machine
from pipeline.reference import execute
from pipeline.targets import load_target
from tests.models import ModelBuilder, import_test_model, quantize_by_reference, residual_network, small_network
from tests.passes.execution import INPUTS, Example, assert_changed, assert_close, assert_sound, random_feeds
from tests.passes.fusion_networks import random_fusion_network
from tests.passes.test_fuse_concatenations import Network, resized
from tests.passes.test_split_transposed_convolutions import CASES
from tests.properties import examples

SHAPE = (2, 8, 10, 10)
IMAGE = (2, 3, 21, 22)

MATRICES = Machine(dataclasses.replace(instruction_set("amx_int8"), activation_offset=128), l2_bytes=40_000)
"""An instruction set for which every phase does something; its second-level cache is small, so that batches split."""


class Model(ModelBuilder):
    """An ONNX model with random weights, and a convolution at its end that takes floats from the end of the int8 part.

    Args:
        shape: of its input x.
    """

    def __init__(self, shape: Sequence[int] = SHAPE) -> None:
        super().__init__()
        self.shape = shape
        self.random = np.random.default_rng(0)

    def conv(self, x: str, channels: int = 8, out: int = 8, kernel: int = 3, **attributes: Any) -> str:
        group = attributes.get("group", 1)
        weight = self.random.standard_normal((out, channels // group, kernel, kernel)) / kernel
        inputs = [self.constant(v.astype("float32")) for v in (weight, self.random.standard_normal(out))]
        return self.node("Conv", x, *inputs, **{"pads": [kernel // 2] * 4, **attributes})

    def floating(self, *outputs: str) -> Program:
        return import_test_model(self.model({"x": self.shape}, *outputs))

    def quantized(self, output: str, channels: int = 8) -> Program:
        program = self.floating(self.conv(output, channels, kernel=1))
        return quantize_by_reference(program, random_feeds(program, 0))


def residual_sum(m: Model, swapped: bool = False) -> str:
    x = m.conv("x")
    y = m.conv(x)
    return m.node("Relu", m.node("Add", *((x, y) if swapped else (y, x))))


def two_convolutions(m: Model) -> str:
    return m.node("Add", m.conv("x"), m.conv("x", kernel=1))


def two_of_one_padding(m: Model) -> str:
    return m.node("Add", m.conv("x"), m.conv("x"))


def activation(m: Model, **attributes: Any) -> str:
    return m.node("Sigmoid", m.conv("x", **attributes))


def swished(m: Model, **attributes: Any) -> str:
    return m.node("HardSwish", m.conv("x", **attributes))


def image(m: Model, kernel: int = 3, stride: int = 2) -> str:
    return m.node("Relu", m.conv("x", 3, 16, kernel, strides=[stride, stride]))


def pooled(m: Model) -> str:
    y = m.node("MaxPool", m.conv("x", kernel=1), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    return m.conv(y)


def joined(m: Model) -> str:
    left, right = m.conv("x", kernel=1), m.conv("x", kernel=1)
    return m.conv(m.node("Concat", left, right, axis=1), 16, 8)


def found_in_its_halo(m: Model) -> str:
    y = m.conv("x", kernel=1)
    return m.conv(m.node("Add", m.conv(y), y))


def found_in_a_later_halo(m: Model) -> str:
    """A sum whose padding comes before that of its residual in the program."""
    y = m.conv("x", kernel=1)
    total = m.node("Add", m.conv(m.conv("x", kernel=1)), y)
    return m.node("Concat", m.conv(total), m.conv(y), axis=1)


def squeeze_and_excite(m: Model) -> str:
    y = m.conv("x")
    y = m.node("Mul", y, m.node("Sigmoid", m.conv(m.node("GlobalAveragePool", y), kernel=1)))
    return m.node("Concat", m.node("Add", m.conv(y), y), y, axis=1)


def integer(build: Callable[..., str], shape: Sequence[int] = SHAPE, out: int = 8, **options: Any) -> Example:
    def make() -> Program:
        m = Model(shape)
        return m.quantized(build(m, **options), out)

    return Example(make)


def floating(
    build: Callable[..., str], shape: Sequence[int] = SHAPE, tolerance: float = 0.0, **options: Any
) -> Example:
    def make() -> Program:
        m = Model(shape)
        return m.floating(build(m, **options))

    return Example(make, tolerance)


def strided(shape: Sequence[int], strides: Sequence[int]) -> Example:
    return integer(lambda m: m.conv(m.conv("x"), kernel=1, strides=list(strides)), shape)


def concatenated(axis: int) -> Example:
    def make() -> Program:
        n = Network((2, 3, 4, 5), (2, 3, 4, 5))
        return n.program(relax.op.concat(n.inputs, axis))

    return Example(make)


def enlarged(then_looked_up: bool = False) -> Example:
    def make() -> Program:
        n = Network((1, 2, 3, 5), (1, 4, 12, 7))
        table = make_constant(np.random.default_rng(0).permutation(256).astype("uint8"))
        y = resized(n.inputs[0], 4, 12)
        if then_looked_up:
            return n.program(make_call(ops.QLookup(), n.builder.normalize(y), table))
        return n.program(relax.op.concat([y, n.inputs[1]], 3))

    return Example(make)


def mean(m: Model, keepdims: int) -> str:
    return m.node("ReduceMean", m.conv("x"), axes=[2, 3], keepdims=keepdims)


def averages(m: Model, **attributes: Any) -> str:
    return m.node("AveragePool", m.conv("x"), **attributes)


def gated(m: Model) -> str:
    return m.node("Mul", m.conv("x"), m.conv("x", 8, 1))


def limited() -> Program:
    m = Model(SHAPE)
    zero, six = (m.constant(np.float32(limit)) for limit in (0, 6))
    program = m.floating(m.node("Clip", m.conv("x"), zero, six))
    return quantize_by_reference(program, random_feeds(program, 0))


def best(axis: int, **attributes: Any) -> Example:
    """Return an example of a TopK: the largest or smallest three values along an axis, and their indices."""

    def make() -> Program:
        b = ModelBuilder()
        values = b.node("TopK", "x", b.constant(np.array([3])), axis=axis, **attributes)
        b.nodes[-1].output.append("indices")
        return import_test_model(b.model({"x": SHAPE}, values, b.node("Cast", "indices", to=1)))

    return Example(make)


def in_order(**attributes: Any) -> Example:
    def make() -> Program:
        n = Network((4, 7, 5))
        sorts = [sort(n.inputs[0], **attributes) for sort in (relax.op.sort, relax.op.argsort)]
        return n.program(*sorts)

    return Example(make)


def running_sums() -> Program:
    b = ModelBuilder()
    sums = b.node("CumSum", "x", b.constant(np.array(1)), exclusive=1)
    return import_test_model(b.model({"x": SHAPE}, b.node("Transpose", sums, perm=[3, 1, 0, 2])))


EXAMPLES: Mapping[str, Mapping[str, Example]] = {
    "split_transposed_convolutions": {
        **{name: Example(functools.partial(case.integer, 0)) for name, case in CASES.items()},
        **{f"{name}, float": Example(functools.partial(case.floating, 0), 1e-5) for name, case in CASES.items()},
    },
    "pick_strided_pixels": {
        "short lines": strided((2, 8, 13, 7), (2, 2)),
        "rows only": strided((1, 8, 13, 5), (3, 1)),
    },
    "replace_relax_operators": {
        "mean": floating(mean, tolerance=1e-5, keepdims=1),
        "mean without axes": floating(mean, tolerance=1e-5, keepdims=0),
        "windows": floating(averages, tolerance=1e-5, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        "windows that count padding": floating(
            averages, tolerance=1e-5, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
        ),
        "windows rounded up": floating(averages, tolerance=1e-5, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
        "product": floating(gated),
        "limits of an activation behind integers": Example(limited),
    },
    "replace_sorts": {
        "largest along the last axis": best(3),
        "smallest along channels": best(1, largest=0),
        "all in order": in_order(axis=-1),
        "all in falling order": in_order(axis=1, descending=True),
    },
    "fuse_residual_adds": {
        "sum": integer(residual_sum),
        "sum, operands swapped": integer(residual_sum, swapped=True),
        "two convolutions": integer(two_convolutions),
        "grouped": integer(lambda m: m.node("Add", m.conv("x", group=2), m.conv("x"))),
        "sum, float": floating(residual_sum),
        "two convolutions, float": floating(two_convolutions),
    },
    "fuse_hard_swishes": {
        "dense": integer(swished),
        "grouped": integer(swished, group=2),
        "depthwise": integer(swished, group=8),
        "strided": integer(swished, strides=[2, 2]),
    },
    "fuse_lookups": {
        "dense": integer(activation),
        "grouped": integer(activation, group=2),
        "depthwise": integer(activation, group=8),
        "strided": integer(activation, strides=[2, 2]),
    },
    "fuse_image_inputs": {
        "three channels": integer(image, IMAGE, 16),
        "two channels": integer(lambda m: m.conv("x", 2), (2, 2, 7, 9)),
        "four channels": integer(lambda m: m.conv("x", 4), (2, 4, 7, 9)),
    },
    "fuse_concatenations": {
        **{f"along axis {axis}": concatenated(axis) for axis in (0, 1, 2, 3)},
        "with an enlarged image": enlarged(),
        "a lookup of an enlarged image": enlarged(then_looked_up=True),
        "channels of convolutions": integer(joined),
        "channels of convolutions, float": floating(joined),
    },
    "separate_padding": {
        "convolution": integer(lambda m: m.conv("x")),
        "depthwise, uneven": integer(lambda m: m.conv("x", group=8, pads=[0, 1, 2, 1])),
        "padding that two share": integer(two_of_one_padding),
        "convolution, float": floating(lambda m: m.conv("x")),
        "padding that two share, float": floating(two_of_one_padding),
    },
    "write_halos": {
        "convolution": integer(lambda m: m.conv(m.conv("x", kernel=1))),
        "lookup": integer(lambda m: m.conv(activation(m), group=8)),
        "pooling": integer(pooled),
        "image": integer(image, IMAGE, 16),
        "images side by side": integer(joined),
        "sum that finds its operand inside": integer(found_in_its_halo),
        "sum that gets a halo before its operand does": integer(found_in_a_later_halo, out=16),
        "sum that gets a halo before its operand does, float": floating(found_in_a_later_halo),
        "convolution, float": floating(lambda m: m.conv(m.conv("x", kernel=1))),
        "sum that finds its operand inside, float": floating(found_in_its_halo),
        "residual network": Example(lambda: quantized_network(residual_network())),
    },
    "unfold_image_inputs": {
        "3x3": integer(image, IMAGE, 16),
        "7x7": integer(image, IMAGE, 16, kernel=7),
        "5x5, every third pixel": integer(image, IMAGE, 16, kernel=5, stride=3),
    },
    "store_signed": {
        "convolutions": integer(lambda m: m.conv(m.conv("x"))),
        "depthwise": integer(lambda m: m.conv(m.conv("x", kernel=1), group=8)),
        "pooling": integer(pooled),
        "image": integer(image, IMAGE, 16),
        "padding that two share": integer(lambda m: m.conv(two_of_one_padding(m))),
        "sum that finds its operand inside": integer(found_in_its_halo),
        "one tensor has a reader that takes no signed values": integer(lambda m: m.conv(squeeze_and_excite(m), 16)),
        "residual network": Example(lambda: quantized_network(residual_network())),
    },
    "split_batches": {
        "squeeze and excite": integer(squeeze_and_excite, (3, 8, 32, 32), 16),
        "squeeze and excite, float": floating(squeeze_and_excite, (3, 8, 20, 20)),
        "residual sum": integer(residual_sum, (2, 8, 40, 40)),
    },
}
"""For each phase programs that it changes."""

LOWERED: Mapping[str, Example] = {
    "residual network": Example(lambda: quantized_network(residual_network())),
    "network with one of everything": Example(lambda: quantized_network(small_network()), 1e-5),
    "operators of TVM's": Example(running_sums, 1e-5),
}
"""Programs for the phases after which programs can only be executed as machine code."""

LOWERING = ("legalize", "select_kernels", "center_tensors")
"""These phases."""


def quantized_network(model: Any) -> Program:
    program = import_test_model(model)
    return quantize_by_reference(program, random_feeds(program, 0))


def own(steps: Sequence[Phase]) -> list[Phase]:
    """Return the phases that are passes of this package."""
    return [(name, step) for name, step in steps if not isinstance(step, tvm.transform.Pass)]


def until(name: str, module: tvm.IRModule, steps: Sequence[Phase]) -> tvm.IRModule:
    """Return the module before a phase."""
    names = [n for n, _ in steps]
    return after(module, steps[: names.index(name)])


def after(module: tvm.IRModule, steps: Sequence[Phase]) -> tvm.IRModule:
    with tvm.transform.PassContext(opt_level=3), load_target("host").tvm_target():
        for _, step in steps:
            module = step(module)
    return module


def test_every_phase_has_examples() -> None:
    assert [name for name, _ in own(phases(MATRICES, None))] == [*EXAMPLES, *LOWERING]
    assert all(EXAMPLES.values())


@pytest.mark.parametrize(("name", "example"), [(name, e) for name, found in EXAMPLES.items() for e in found])
def test_a_phase_changes_no_value(name: str, example: str) -> None:
    case, steps = EXAMPLES[name][example], phases(MATRICES, None)
    program = case.make()
    before = dataclasses.replace(program, module=until(name, program.module, steps))
    assert_sound(dict(steps)[name], before, case.tolerance)


def compiled(program: Program, steps: Sequence[Phase]) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return a function that runs a program, compiled from its form after some phases."""
    code = generate_code(after(program.module, steps), load_target("host").tvm_target())
    machine = relax.VirtualMachine(code.executable(), tvm.cpu())

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        result = machine["main"](*(tvm.runtime.tensor(feeds[i.name]) for i in program.inputs))
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return {o.name: r.numpy() for o, r in zip(program.outputs, results, strict=True)}

    return run


@pytest.mark.parametrize("name", LOWERING)
def test_a_phase_of_lowering_changes_a_program(name: str) -> None:
    steps = phases(machine_of(load_target("host")), None)
    before = until(name, LOWERED["residual network"].make().module, steps)
    assert_changed(before, after(before, [(name, dict(steps)[name])]))


@pytest.mark.parametrize("example", LOWERED)
def test_kernels_give_the_values_of_operators_wherever_their_tensors_lie(example: str) -> None:
    case, steps = LOWERED[example], phases(machine_of(load_target("host")), None)
    program = case.make()
    run, run_uncentred = compiled(program, steps), compiled(program, [s for s in steps if s[0] != "center_tensors"])
    for seed in range(INPUTS):
        feeds = random_feeds(program, seed)
        outputs = run(feeds)
        assert_close(outputs, execute(program, feeds), case.tolerance)
        assert_close(run_uncentred(feeds), outputs)


@given(st.integers(0, 2**32 - 1), st.integers(6, 20), st.sampled_from([600, 1200, 2500, 5000]), st.booleans())
@examples(6)
def test_no_phase_changes_a_value_of_a_random_network(seed: int, length: int, l2_bytes: int, quantized: bool) -> None:
    network = random_fusion_network(seed, length)
    program = quantized_network(network) if quantized else import_test_model(network)
    feeds = random_feeds(program, seed)
    expected = execute(program, feeds)
    steps = dict(phases(dataclasses.replace(MATRICES, l2_bytes=l2_bytes), None))
    for name in EXAMPLES:
        program = dataclasses.replace(program, module=steps[name](program.module))
        assert_close(execute(program, feeds), expected, 0.0 if quantized else 1e-5)
