"""Libraries are hardly larger than the weights of their models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.compiler.build import compile_program
from pipeline.ir.program import Program
from pipeline.targets import load_target
from tests.models import ModelBuilder, import_test_model, quantize_by_reference

LIMIT = 85_000
"""Bytes beside the int8 weights. MobileNetV2 may have 300 KB; the network below has a third of its channels."""


@dataclass
class Network:
    """The end of MobileNetV2, with random weights: its widest layers, which have most of its weights."""

    builder: ModelBuilder = field(default_factory=ModelBuilder)
    weights: list[tuple[int, ...]] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def constant(self, *shape: int) -> str:
        return self.builder.constant((self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("f4"))

    def conv(self, x: str, shape: Sequence[int], *, group: int = 1, activated: bool = True) -> str:
        self.weights.append(tuple(shape))
        pads = [shape[-1] // 2] * 4
        y = self.builder.node("Conv", x, self.constant(*shape), self.constant(shape[0]), group=group, pads=pads)
        return self.builder.node("Relu", y) if activated else y

    def model(self) -> onnx.ModelProto:
        wide = self.conv("x", (960, 160, 1, 1))
        narrow = self.conv(self.conv(wide, (960, 1, 3, 3), group=960), (160, 960, 1, 1), activated=False)
        wide = self.conv(self.builder.node("Add", "x", narrow), (960, 160, 1, 1))
        narrow = self.conv(self.conv(wide, (960, 1, 3, 3), group=960), (320, 960, 1, 1), activated=False)
        pooled = self.builder.node("GlobalAveragePool", self.conv(narrow, (1280, 320, 1, 1)))
        self.weights.append((1280, 1000))
        y = self.builder.node("MatMul", self.builder.node("Flatten", pooled), self.constant(1280, 1000))
        return self.builder.model({"x": (1, 160, 7, 7)}, y)


@pytest.fixture(scope="module")
def network() -> tuple[Network, Program]:
    made = Network()
    program = import_test_model(made.model())
    sample = {"x": np.random.default_rng(1).standard_normal((1, 160, 7, 7)).astype("float32")}
    return made, quantize_by_reference(program, sample)


@pytest.mark.parametrize("name", ["x86-64-v4-vnni", "android-arm64", "android-arm64-i8mm"])
def test_a_library_is_hardly_larger_than_its_models_weights(
    network: tuple[Network, Program], name: str, tmp_path: Path
) -> None:
    made, program = network
    path = compile_program(program, load_target(name), tmp_path / "library.so")
    weights = sum(int(np.prod(shape)) for shape in made.weights)
    assert path.stat().st_size <= weights + LIMIT
