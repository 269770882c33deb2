"""TVM's runtime through its C interface."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from pipeline.runtime import ffi


@pytest.fixture
def runtime() -> ffi.Runtime:
    return ffi.runtime()


def test_a_tensor_shares_its_array_and_keeps_it(runtime: ffi.Runtime) -> None:
    array = np.arange(6, dtype="int16").reshape(2, 3)
    tensor = runtime.tensor(array)
    array[0, 0] = 7
    del array
    gc.collect()
    view = np.from_dlpack(tensor)
    del tensor
    np.testing.assert_array_equal(view, [[7, 1, 2], [3, 4, 5]])


def test_values_pass_through_an_array(runtime: ffi.Runtime) -> None:
    tensor = runtime.tensor(np.ones(3, "float32"))
    none, number, flag, passed, nested = runtime.function("ffi.Array")(None, -5, True, tensor, ["a", "b"])
    assert (none, number, flag) == (None, -5, True)
    assert passed.handle == tensor.handle
    assert isinstance(nested, ffi.Array)
    assert runtime.function("ffi.ArraySize")(nested) == 2


def test_an_error_has_the_runtimes_words(runtime: ffi.Runtime) -> None:
    with pytest.raises(ffi.RuntimeCallError, match=r"IndexError: .*out of"):
        runtime.function("ffi.ArrayGetItem")(runtime.function("ffi.Array")(), 3)


def test_what_does_not_exist_is_named(runtime: ffi.Runtime, library: Path) -> None:
    with pytest.raises(ffi.RuntimeCallError, match=r"no function 'no\.such'"):
        runtime.function("no.such")
    with pytest.raises(ffi.RuntimeCallError, match="no function 'nothing'"):
        runtime.load_module(str(library))["nothing"]


def test_a_text_is_refused_as_a_result(runtime: ffi.Runtime) -> None:
    texts = runtime.function("ffi.Array")("a")
    with pytest.raises(ffi.RuntimeCallError, match="can't read"):
        list(texts)
