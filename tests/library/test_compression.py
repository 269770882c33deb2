"""Constants that are compressed are what they were when `expand.c` has expanded them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline import matchings
from pipeline.library.constants import ALIGNMENT, ConstantPool
from tests.properties import examples

ROOM = 1 << 21
"""Bytes for constants, packed ones, and expanded ones."""

WRAPPER = f"""
#include "expand.c"
#define ROOM(name) ".globl " name "\\n.hidden " name "\\n.p2align 6\\n" name ":\\n.zero {ROOM}\\n"
__asm__(".bss\\n" ROOM("constants") ROOM("packed") ROOM("expanded") ".text\\n");
#define EXPORTED __attribute__((visibility("default")))
EXPORTED const char *constants_address(void) {{ return constants; }}
EXPORTED const char *packed_address(void) {{ return (const char *)&packed; }}
EXPORTED const char *expanded_address(void) {{ return expanded; }}
EXPORTED void run(void) {{ expand(); }}
EXPORTED const char *find(int64_t offset) {{ return pipeline_constant(offset); }}
"""

Array = np.ndarray
Expand = Callable[[list[Array]], list[Array]]


@pytest.fixture(scope="module")
def expand(tmp_path_factory: pytest.TempPathFactory) -> Expand:
    """Return a function that returns constants as kernels find them, and stores the last one as a program, too."""
    folder = tmp_path_factory.mktemp("expand")
    shutil.copy(Path(pipeline.__file__).with_name("library") / "expand.c", folder)
    (folder / "wrapper.c").write_text(WRAPPER)
    compiler = (sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC")
    subprocess.run([*compiler, "wrapper.c", "-o", "expand.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "expand.so"))
    library.find.argtypes = [ctypes.c_int64]
    addresses = (library.constants_address, library.packed_address, library.expanded_address)
    for function in (library.find, *addresses):
        function.restype = ctypes.c_void_p

    def expanded(values: list[Array]) -> list[Array]:
        pool = ConstantPool()
        offsets = [pool.add(value) for value in values]
        program = values[-1].tobytes()
        stored = pool.stored(program)
        assert max(len(stored.constants), len(stored.packed), stored.expanded) <= ROOM
        ctypes.memmove(library.constants_address(), stored.constants, len(stored.constants))
        ctypes.memmove(library.packed_address(), stored.packed, len(stored.packed))
        library.run()
        start = library.expanded_address() if stored.program_expanded else library.constants_address()
        assert ctypes.string_at(start + stored.program, len(program)) == program
        found = []
        for value, offset in zip(values, offsets, strict=True):
            address = library.find(offset)
            assert address % ALIGNMENT == 0
            found.append(np.frombuffer(ctypes.string_at(address, value.nbytes), value.dtype).reshape(value.shape))
        return found

    return expanded


@st.composite
def constants(draw: st.DrawFn) -> Array:
    """Constants of kernels and others: of every dtype, narrow and wide, repeated, and with zeros between."""
    dtype = draw(st.sampled_from(["int8", "uint8", "int16", "int32", "float32", "int64"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.standard_normal(draw(st.integers(1, 3000))) * draw(st.sampled_from([0.0, 0.3, 20.0, 1e4]))
    whole = np.clip(values, -128, 127) if draw(st.booleans()) else np.clip(values, -32768, 32767)
    values = np.where(np.arange(len(values)) % 4 < draw(st.integers(1, 4)), whole, 0)
    return np.tile(values.astype("int64").astype(dtype), draw(st.sampled_from([1, 1, 8])))


@examples(30)
@given(st.lists(constants(), min_size=1, max_size=12))
def test_constants_are_what_they_were(expand: Expand, values: list[Array]) -> None:
    for value, found in zip(values, expand(values), strict=True):
        np.testing.assert_array_equal(found, value)


@examples(10)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 200), most=st.sampled_from([1, 1000, matchings.COUNT]))
def test_orders_among_other_bytes_are_what_they_were(expand: Expand, seed: int, count: int, most: int) -> None:
    random = np.random.default_rng(seed)
    orders = matchings.orders(random.integers(0, most, count))
    granules = np.concatenate([orders, random.integers(0, 16, (count, 16)).astype("uint8")])
    value = random.permutation(granules).reshape(-1)
    np.testing.assert_array_equal(expand([value])[0], value)


def test_orders_of_small_numbers_take_little_more_than_a_byte() -> None:
    pool = ConstantPool()
    pool.add(matchings.orders(np.random.default_rng(0).geometric(0.01, 4000)))
    assert len(pool.stored().packed) < 4000 * 1.3


def test_an_area_of_one_value_is_what_it_was(expand: Expand) -> None:
    for value in (np.full(20_000, 7, "int32"), np.full(20_000, -3, "int16"), np.zeros(100_000, "int8")):
        np.testing.assert_array_equal(expand([value])[0], value)


def test_a_program_with_large_constants_is_read_from_the_file() -> None:
    assert ConstantPool().stored(bytes(1 << 16)).program_expanded
    assert not ConstantPool().stored(bytes(2 << 20)).program_expanded


def test_large_constants_of_int16_that_fit_int8_are_stored_in_8_bits(expand: Expand) -> None:
    narrow = np.random.default_rng(0).integers(-128, 128, 100_000).astype("int16")
    wide = narrow + 1
    pool = ConstantPool()
    for value in (narrow, wide):
        pool.add(value)
    assert len(pool.stored().constants) == narrow.nbytes // 2 + wide.nbytes
    for value, found in zip((narrow, wide), expand([narrow, wide]), strict=True):
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_values_near_those_before_take_fewer_bytes_and_are_what_they_were(expand: Expand, dtype: str) -> None:
    random = np.random.default_rng(0)
    near = (np.repeat([-1e6, 3e6, 5e8, -2e9], 1000) + random.normal(0, 1000, 4000)).astype("int32").view(dtype)
    pool = ConstantPool()
    pool.add(near)
    assert len(pool.stored().packed) < 0.5 * near.nbytes
    far = random.integers(0, 1 << 32, 4000, "uint32").view(dtype)
    for value in (near, far):
        np.testing.assert_array_equal(expand([value])[0].view("uint32"), value.view("uint32"))


def test_which_granules_are_orders_takes_a_bit_or_less() -> None:
    random = np.random.default_rng(0)
    pool, orders = ConstantPool(), matchings.orders(np.zeros(40_000, int))
    orders[random.random(len(orders)) < 0.1] = 0
    pool.add(orders[: len(orders) // 2])
    assert len(pool.stored().packed) < 20_000 / 8
