"""Where tensors lie in the memory that they share."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import tvm

from pipeline.api import quantize
from pipeline.compiler.lower import lower, machine_of
from pipeline.library.constants import ALIGNMENT, ConstantPool
from pipeline.targets import load_target
from tests.models import ModelBuilder, import_test_model


def placed(model: ModelBuilder, output: str, shape: list[int]) -> list[tuple[int, int, int]]:
    """Return size, offset and size of the storage of each tensor, in the order of their allocation."""
    program = quantize(
        import_test_model(model.model({"x": shape}, output)),
        [np.random.default_rng(0).standard_normal(shape).astype("float32")],
    ).program
    target = load_target("x86-64-v3")
    lowered: dict[str, tvm.IRModule] = {}
    lower(program.module, target.tvm_target(), machine_of(target), ConstantPool(), lowered.__setitem__)
    storages: dict[object, int] = {}
    tensors = []
    for binding in lowered["center_tensors"]["main"].body.blocks[0].bindings:
        operator = getattr(getattr(binding.value, "op", None), "name", "")
        if operator == "relax.memory.alloc_storage":
            storages[binding.var] = math.prod(int(d) for d in binding.value.args[0].values)
        elif operator == "relax.memory.alloc_tensor":
            storage, offset, tensor, dtype, *_ = binding.value.args
            size = math.prod(int(d) for d in tensor.values) * np.dtype(dtype.value).itemsize
            tensors.append((size, int(offset), storages[storage]))
    return tensors


def convolutions(b: ModelBuilder, channels: list[int]) -> str:
    y = "x"
    for before, after in itertools.pairwise(channels):
        weight = np.random.default_rng(after).standard_normal((after, before, 1, 1)).astype("float32")
        y = b.node("Conv", y, b.constant(weight))
    return y


def test_tensors_of_different_sizes_share_a_middle() -> None:
    b = ModelBuilder()
    tensors = placed(b, convolutions(b, [8, 64, 8, 16, 8, 32, 8]), [1, 8, 32, 32])
    smaller = [(size, offset, storage) for size, offset, storage in tensors if size < storage]
    assert len(smaller) == 2
    for size, offset, storage in smaller:
        assert offset == (storage - size) // 2 // ALIGNMENT * ALIGNMENT


@pytest.mark.parametrize("height", [5, 7, 9])
def test_tensors_begin_at_whole_lines_of_the_cache(height: int) -> None:
    b = ModelBuilder()
    tensors = placed(b, convolutions(b, [3, 5, 11, 7, 3, 9, 2]), [1, 3, height, 3])
    assert all(offset % ALIGNMENT == 0 and offset + size <= storage for size, offset, storage in tensors)


def test_what_others_than_kernels_read_begins_with_its_storage() -> None:
    b = ModelBuilder()
    y = convolutions(b, [8, 64, 8, 16])
    tensors = placed(b, b.node("Gather", y, b.constant(np.array([1, 0])), axis=1), [1, 8, 32, 32])
    assert any(offset == 0 and size < storage for size, offset, storage in tensors)
