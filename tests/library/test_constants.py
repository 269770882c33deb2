"""The pool of a library's constants, and where they are in the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from elftools.elf.elffile import ELFFile

from pipeline.library.constants import ALIGNMENT, CONSTANTS_SECTION, ConstantPool
from tests.runtime.models import quantized_model


def test_constants_are_found_at_their_offsets() -> None:
    pool = ConstantPool()
    values = [np.arange(5, dtype="int8"), np.ones((3, 70), "float32").T, np.zeros(0, "int32"), np.full(64, 7, "uint8")]
    offsets = [pool.add(value) for value in values]
    data = pool.data()
    for value, offset in zip(values, offsets, strict=True):
        assert offset % ALIGNMENT == 0
        found = np.frombuffer(data, value.dtype, value.size, offset)
        np.testing.assert_array_equal(found.reshape(value.shape), np.ascontiguousarray(value))


def test_equal_constants_are_stored_once() -> None:
    pool = ConstantPool()
    assert pool.add(np.ones(100, "int32")) == pool.add(np.ones((10, 10), "int32"))
    assert pool.add(np.ones(100, "int64")) > 0
    assert len(pool.data()) == 448 + 832


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
