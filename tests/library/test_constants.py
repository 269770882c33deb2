"""The pool of a library's constants, and where they are in the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from elftools.elf.elffile import ELFFile

from pipeline.library.constants import ALIGNMENT, CONSTANTS_SECTION, MOST_EXPANDED, ConstantPool
from tests.runtime.models import quantized_model


def test_constants_that_are_too_large_to_expand_are_found_at_their_offsets() -> None:
    pool = ConstantPool()
    values = [np.arange(MOST_EXPANDED // 2 + 5, dtype="float16"), np.ones((300, 700), "float32").T]
    offsets = [pool.add(value) for value in values]
    data = pool.stored().constants
    for value, offset in zip(values, offsets, strict=True):
        assert offset % ALIGNMENT == 0
        found = np.frombuffer(data, value.dtype, value.size, offset)
        np.testing.assert_array_equal(found.reshape(value.shape), np.ascontiguousarray(value))


def test_equal_constants_are_stored_once() -> None:
    pool = ConstantPool()
    assert pool.add(np.ones(100, "int64")) == pool.add(np.ones((10, 10), "int64"))
    assert pool.add(np.ones(200, "int64")) > 0
    assert len(pool.stored().constants) == 832 + 1600


def test_only_small_constants_are_expanded_and_only_if_they_are_compressed_well() -> None:
    random = np.random.default_rng(0)
    dense = random.integers(-128, 128, 40_000).astype("int8")
    biases = random.integers(-(2**16), 2**16, 10_000).astype("int32")
    pool = ConstantPool()
    for value in (dense, biases, np.zeros(MOST_EXPANDED, "int32")):
        pool.add(value)
    stored = pool.stored()
    assert stored.constants[:40_000] == dense.tobytes()
    assert len(stored.constants) == 40_000 + 4 * MOST_EXPANDED
    assert len(stored.packed) < 26_000
    assert stored.expanded > 40_000
    assert len(pool.stored(compressed=False).constants) == 40_000 + 4 * MOST_EXPANDED + 40_000


def test_a_library_holds_its_constants_in_a_section_and_nowhere_else(tmp_path: Path) -> None:
    path = quantized_model().build("x86-64-v4-vnni", tmp_path / "small.so")
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(CONSTANTS_SECTION)
        assert section["sh_addr"] % ALIGNMENT == 0
        data = section.data()
    # The weights of the second convolution.
    assert len(data) > 16 * 16 * 9
    assert path.read_bytes().count(data[:ALIGNMENT]) == 1
    # Of the virtual machine's own constants, none is a tensor; types, shapes and names are.
    stats = tvm.runtime.load_module(str(path))["stats"]()
    assert "Constant pool" in stats
    assert ", [" not in stats.splitlines()[1]
