"""Each part of a network can be quantized alone, and is then what the reference, or the int8 program, makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.analysis.switches import LAYER, TENSOR, WEIGHTS, Part, SwitchedProgram, with_switches
from pipeline.api import Quantized, quantize
from pipeline.compiler.execute import Executor
from pipeline.config.options import AnnotateOptions
from pipeline.ir.dataflow import Dataflow
from pipeline.quantization.annotate import annotate
from pipeline.reference import evaluate_binding, execute
from tests.models import import_test_model, residual_network

Array = npt.NDArray[Any]


def sample(seed: int = 0) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((2, 3, 40, 40)).astype("float32")}


@pytest.fixture(scope="module")
def residual() -> Quantized:
    return quantize(import_test_model(residual_network()), [sample()], algorithm="abs_max")


@pytest.fixture(scope="module")
def switched(residual: Quantized) -> SwitchedProgram:
    return with_switches(residual.source, residual.annotation, residual.table)


@pytest.fixture(scope="module")
def scores(switched: SwitchedProgram) -> Callable[..., Array]:
    """Runs the network with a part quantized."""
    executor = Executor(switched.program)
    return lambda *chosen: executor.run(switched.feeds(sample(), *chosen))["scores"]


def part(switched: SwitchedProgram, kind: str, name: str) -> Part:
    (found,) = (p for p in switched.parts if (p.kind, p.name) == (kind, name))
    return found


def with_rounded(quantized: Quantized, name: str) -> Array:
    """Return the float program's scores, a tensor of it rounded to 8 bits."""
    flow = Dataflow.of(quantized.source.module)
    values: dict[Any, Any] = dict(zip(flow.params, sample().values(), strict=True))
    entry = quantized.table.tensors[name]
    for binding in flow.bindings:
        value = evaluate_binding(binding, values)
        if str(binding.var.name) == name:
            stored = np.clip(np.rint(value / np.float32(entry.scale)) + entry.zero_point, 0, 255)
            value = ((stored - entry.zero_point) * np.float32(entry.scale)).astype("float32")
        values[binding.var] = value
    return values[flow.outputs[0]]


def test_with_all_off_it_is_the_float_program(residual: Quantized, scores: Callable[..., Array]) -> None:
    np.testing.assert_allclose(scores(), execute(residual.source, sample())["scores"], rtol=1e-4, atol=1e-5)


def test_every_calibrated_tensor_and_every_layer_is_a_part(residual: Quantized, switched: SwitchedProgram) -> None:
    names: Mapping[str, set[str]] = {
        kind: {p.name for p in switched.parts if p.kind == kind} for kind in (TENSOR, WEIGHTS, LAYER)
    }
    layers = {o.name for o in residual.annotation.operators if o.operator == "conv2d"}
    assert names == {TENSOR: set(residual.table.tensors), WEIGHTS: layers, LAYER: layers}


@pytest.mark.parametrize("name", ["x.permuted", "t1", "t4"])
def test_a_tensor_alone_is_rounded_for_all_that_read_it(
    residual: Quantized, switched: SwitchedProgram, scores: Callable[..., Array], name: str
) -> None:
    alone, exact = scores(part(switched, TENSOR, name)), scores()
    # A value halfway between two steps may go to either.
    distance = np.abs(alone - with_rounded(residual, name)).max()
    assert distance < 0.1 * np.abs(alone - exact).max()


@pytest.mark.parametrize("place", range(4))
def test_a_layer_alone_is_what_a_model_with_this_one_in_int8_is(
    residual: Quantized, switched: SwitchedProgram, scores: Callable[..., Array], place: int
) -> None:
    # Those that read a tensor which has a scale of its own in either model.
    producers = {str(v.name): b for v, b in Dataflow.of(residual.source.module).producers.items()}
    layers = [p.name for p in switched.parts if p.kind == LAYER]
    name = [n for n in layers if str(producers[n].value.args[0].name) in residual.table.tensors][place]
    annotation = annotate(residual.source, AnnotateOptions(operators=[name]))
    alone = quantize(residual.source, annotation=annotation, table=residual.table)
    assert [o.name for o in alone.annotation.operators if o.precision == "int8"] == [name]
    expected = execute(alone.program, sample())["scores"]
    np.testing.assert_allclose(scores(part(switched, LAYER, name)), expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_stays_in_float_if_all_do_that_read_it_or_what_moves_its_values(switched: SwitchedProgram) -> None:
    # Behind the first convolution, a maximum only moves values, and has no scale of its own.
    assert part(switched, TENSOR, "t1").readers == ("t4", "t7")


def test_parts_are_named_for_messages(switched: SwitchedProgram) -> None:
    parts = (part(switched, kind, "t1") for kind in (TENSOR, WEIGHTS, LAYER))
    assert [str(p) for p in parts] == ["tensor 't1'", "the weights of layer 't1'", "layer 't1'"]
