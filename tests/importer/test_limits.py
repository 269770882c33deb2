"""Tensors that are too large are refused before memory is allocated for them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.limits import MAX_TENSOR_BYTES, check_tensor_size, tensor_bytes

PACKED = {n: v for n, v in TensorProto.DataType.items() if n not in ("UNDEFINED", "STRING")}


@pytest.mark.parametrize("dtype", PACKED.values(), ids=PACKED.keys())
def test_a_tensor_takes_what_onnx_stores_for_it(dtype: int) -> None:
    stored = numpy_helper.from_array(np.zeros((3, 5), helper.tensor_dtype_to_np_dtype(dtype)))
    assert tensor_bytes((3, 5), dtype) == len(stored.raw_data)


def test_the_limit_is_the_last_size_that_passes() -> None:
    check_tensor_size("t", (MAX_TENSOR_BYTES // 4,), TensorProto.FLOAT)
    with pytest.raises(ModelError, match=r"Tensor 't' has the shape \[536870913\] and takes 2147483652 bytes"):
        check_tensor_size("t", (MAX_TENSOR_BYTES // 4 + 1,), TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, -1), "a size is negative"), ((2**40, 2**40), "the limit is"), ((1,) * 65, "has 65 dimensions")],
    ids=["negative", "overflow", "rank"],
)
def test_shapes_that_cannot_be(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_tensor_size("t", shape, TensorProto.INT8)


def test_an_empty_tensor_is_small() -> None:
    check_tensor_size("t", (0, 2**40), TensorProto.FLOAT)
