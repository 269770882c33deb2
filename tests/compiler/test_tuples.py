"""Operators with several results pass through every phase."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tvm import relax

from pipeline.api import quantize
from pipeline.compiler.build import compile_program
from pipeline.errors import ModelError
from pipeline.ir.program import Program, TensorSpec
from pipeline.runtime.local import Runner
from pipeline.targets import load_target
from tests.models import ModelBuilder, import_test_model


@pytest.mark.parametrize("batch", [1, 2])
def test_parts_of_a_tensor_are_quantized_compiled_and_recorded(tmp_path: Path, batch: int) -> None:
    x = relax.Var("x", relax.TensorType((batch, 4, 6), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            parts = builder.emit(relax.op.split(x, 2, axis=1))
            total = builder.emit(relax.op.multiply(parts[0], parts[1]))
            results = builder.emit_output(relax.Tuple([total, builder.emit(parts[1])]))
        builder.emit_func_output(results)
    specs = [TensorSpec(name, (batch, size, 6), "float32") for name, size in (("x", 4), ("y", 2), ("z", 2))]
    program = Program(builder.get(), tuple(specs[:1]), tuple(specs[1:]), "test", "0" * 64)
    value = np.random.default_rng(0).standard_normal((batch, 4, 6)).astype("float32")
    quantized = quantize(program, [value]).program
    actual = Runner(compile_program(quantized, load_target("host"), tmp_path / "model.so")).run({"x": value})
    np.testing.assert_array_equal(actual["y"], value[:, :2] * value[:, 2:])
    np.testing.assert_array_equal(actual["z"], value[:, 2:])


def test_statistics_of_training_are_refused() -> None:
    b = ModelBuilder()
    weights = [b.constant(np.ones(4, "float32")) for _ in range(4)]
    node = onnx.helper.make_node("BatchNormalization", ["x", *weights], ["y", "mean", "variance"], training_mode=1)
    b.nodes.append(node)
    with pytest.raises(ModelError, match=r"BatchNormalization 'y' is in training mode .* model\.eval\(\)"):
        import_test_model(b.model({"x": [2, 4, 6, 8]}, "y", "mean", "variance"))
