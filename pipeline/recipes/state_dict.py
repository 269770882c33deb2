"""Reads the tensors of a PyTorch checkpoint (the format before the zip one) without PyTorch and without trusting it.

The file is a sequence of pickles followed by raw numbers. The unpickler here makes nothing but containers, numbers,
texts and references to tensors. Any other name in the file is refused before anything is called.

`torch.load(weights_only=True)` does the same, but PyTorch has some hundred megabytes, for one recipe. Smaller packages,
such as ptloader, only read the zip format, and the one package that has these weights has the older format.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError

MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
MAX_ELEMENTS = 2**28


class _Storage:
    """A storage, whose raw numbers are at the end of the file."""

    def __init__(self, dtype: str, key: str, elements: int) -> None:
        self.dtype, self.key, self.elements = dtype, key, elements


class _Tensor:
    """A tensor: a view into a storage."""

    def __init__(self, storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> None:
        self.storage, self.offset = storage, int(offset)
        self.shape, self.strides = tuple(map(int, shape)), tuple(map(int, strides))


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise ModelError(f"The checkpoint names {module}.{name}, which isn't part of a plain state dictionary.")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, elements, *_view = pid
        if kind != "storage" or dtype not in _DTYPES or not 0 <= elements <= MAX_ELEMENTS:
            raise ModelError("The checkpoint holds a storage that isn't one of plain numbers.")
        return _Storage(_DTYPES[dtype], str(key), elements)


def read_state_dict(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a checkpoint by name.

    Raises:
        ModelError: the file isn't such a checkpoint, is truncated, or contains anything but tensors.
    """
    file = io.BytesIO(data)
    try:
        if _RestrictedUnpickler(file).load() != MAGIC:
            raise ModelError("The file isn't a PyTorch checkpoint of the format before the zip one.")
        for _ in range(2):
            _RestrictedUnpickler(file).load()
        state, keys = _RestrictedUnpickler(file).load(), _RestrictedUnpickler(file).load()
        if not isinstance(state, dict):
            raise ModelError("The checkpoint isn't a state dictionary.")
        storages = {t.storage.key: t.storage for t in state.values() if isinstance(t, _Tensor)}
        numbers = {}
        for key in keys:
            (elements,) = struct.unpack("<q", file.read(8))
            storage = storages[key]
            if elements != storage.elements:
                raise ModelError("The checkpoint's storages don't have the sizes that its tensors name.")
            size = elements * np.dtype(storage.dtype).itemsize
            numbers[key] = np.frombuffer(file.read(size), storage.dtype, elements)
        return {name: _view(t, numbers) for name, t in state.items() if isinstance(t, _Tensor)}
    except (pickle.UnpicklingError, struct.error, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"The checkpoint is damaged: {error}") from error


def _view(tensor: _Tensor, numbers: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return a tensor's values.

    Raises:
        ModelError: the tensor reaches outside of its storage.
    """
    storage = numbers[tensor.storage.key]
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset < 0 or min(tensor.strides, default=0) < 0 or last >= max(storage.size, 1):
        raise ModelError("The checkpoint holds a tensor that reaches outside its numbers.")
    strides = tuple(s * storage.itemsize for s in tensor.strides)
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
