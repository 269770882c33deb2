"""Calls TVM's runtime through the part of its C interface (tvm/ffi/c_api.h) that running a library needs.

The package `tvm_ffi` does this and far more, but importing it would take a third of the time from starting Python to
the first result. Both may be used in one process, as they share TVM's libraries.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pipeline.errors import ArtifactError

_NONE, _INT, _BOOL, _RAW_TEXT = 0, 1, 2, 8
_FIRST_OBJECT, _BYTES, _ERROR, _FUNCTION, _TENSOR, _ARRAY, _MODULE = 64, 66, 67, 68, 70, 71, 73
"""Values of TVMFFITypeIndex, the types of values."""

_OBJECT_HEADER_BYTES = 24
"""Size of the header that every object begins with; its own fields follow."""

_CAPSULE, _USED_CAPSULE = b"dltensor", b"used_dltensor"
"""DLPack's names for a capsule that contains a tensor, and for one whose tensor has been taken."""

_PARAMETERS: dict[str, list[Any]] = {
    "TVMFFIErrorMoveFromRaised": [ctypes.c_void_p],
    "TVMFFIFunctionCall": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p],
    "TVMFFIFunctionGetGlobal": [ctypes.c_void_p, ctypes.c_void_p],
    "TVMFFIObjectDecRef": [ctypes.c_void_p],
    "TVMFFITensorFromDLPack": [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p],
    "TVMFFITensorToDLPack": [ctypes.c_void_p, ctypes.c_void_p],
}
"""Parameter types of the C functions that are called. All but the first return a status, 0 for success."""

Value: TypeAlias = "Object | int | str | Sequence[str] | None"


class RuntimeCallError(RuntimeError):
    """A call of TVM's runtime failed; the message is TVM's."""


class _Bytes(ctypes.Structure):
    """TVM's struct TVMFFIByteArray."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))

    def content(self) -> bytes:
        """Return the bytes."""
        return ctypes.string_at(self.data, self.size)

    def text(self) -> str:
        """Return the bytes as text."""
        return self.content().decode(errors="replace")


class _Error(ctypes.Structure):
    """The first fields of TVM's struct TVMFFIErrorCell."""

    _fields_ = (("kind", _Bytes), ("message", _Bytes))


class Object:
    """A reference to an object of TVM's runtime. It is released when this Python object is deleted.

    Args:
        runtime: the runtime that the object belongs to.
        handle: address of the object. This Python object takes over the reference.
        type_: type of the object, a value of TVMFFITypeIndex.
    """

    def __init__(self, runtime: Runtime, handle: int, type_: int) -> None:
        self.runtime, self.handle, self.type = runtime, handle, type_

    def __del__(self) -> None:
        self.runtime.interface.TVMFFIObjectDecRef(self.handle)


class Function(Object):
    """A function of TVM's runtime or of a module."""

    def __call__(self, *arguments: Value) -> Any:
        """Call the function and return its result: None, an integer, bytes, or an object.

        Raises:
            RuntimeCallError: the call failed.
        """
        return self.runtime.call(self, arguments)


class Module(Object):
    """A module: a library, an executable, or a virtual machine."""

    def __getitem__(self, name: str) -> Function:
        """Return a function of the module or of the modules that it imports, by name.

        Raises:
            RuntimeCallError: there is no such function.
        """
        function = self.runtime.function("ffi.ModuleGetFunction")(self, name, True)
        if not isinstance(function, Function):
            raise RuntimeCallError(f"the module has no function {name!r}")
        return function


class Array(Object):
    """An array of values of TVM's runtime."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values; they have the types that `Function` returns."""
        item, size = (self.runtime.function(name) for name in ("ffi.ArrayGetItem", "ffi.ArraySize"))
        return (item(self, i) for i in range(size(self)))


class Tensor(Object):
    """A tensor in this machine's memory."""

    def __dlpack__(self, **_options: Any) -> Any:
        """Return a DLPack capsule with the tensor."""
        managed = ctypes.c_void_p()
        self.runtime.check(self.runtime.interface.TVMFFITensorToDLPack(self.handle, ctypes.byref(managed)))
        return _new_capsule(managed, _CAPSULE, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's number of the device: the CPU."""
        return (1, 0)


class Runtime:
    """TVM's runtime in this process: that of the compiler if it is loaded already, else the small runtime library.

    Raises:
        ArtifactError: the runtime isn't installed.
    """

    def __init__(self) -> None:
        self.interface = ctypes.CDLL(str(_library("tvm_ffi", "apache-tvm-ffi")), ctypes.RTLD_GLOBAL)
        for name, types in _PARAMETERS.items():
            getattr(self.interface, name).argtypes = types
        self._functions: dict[str, Function] = {}
        if self._find("runtime.config_threadpool") is None:
            ctypes.CDLL(str(_library("tvm", "apache-tvm")), ctypes.RTLD_GLOBAL)

    def function(self, name: str) -> Function:
        """Return a global function by name.

        Raises:
            RuntimeCallError: there is no such function.
        """
        found = self._functions.get(name) or self._find(name)
        if found is None:
            raise RuntimeCallError(f"the runtime has no function {name!r}")
        self._functions[name] = found
        return found

    def load_module(self, path: str) -> Module:
        """Load a library and return it as a module.

        Raises:
            RuntimeCallError: the library can't be loaded.
        """
        module: Module = self.function("ffi.ModuleLoadFromFile")(path)
        return module

    def tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        """Return a tensor that shares an array's memory."""
        capsule, handle = array.__dlpack__(), ctypes.c_void_p()
        managed = _capsule_pointer(capsule, _CAPSULE)
        self.check(self.interface.TVMFFITensorFromDLPack(managed, 0, 0, ctypes.byref(handle)))
        _rename_capsule(capsule, _USED_CAPSULE)
        return Tensor(self, handle.value or 0, _TENSOR)

    def call(self, function: Function, arguments: Sequence[Value]) -> Any:
        """Call a function and return its result; see `Function`."""
        # Each argument, and the result, is a TVMFFIAny: a type and a value of 8 bytes each.
        words: list[int] = []
        kept: list[Any] = []
        for value in arguments:
            words += (value.type, value.handle) if isinstance(value, Object) else self._pack(value, kept)
        packed, result = (ctypes.c_int64 * len(words))(*words), (ctypes.c_int64 * 2)()
        self.check(self.interface.TVMFFIFunctionCall(function.handle, packed, len(arguments), result))
        # Only 4 of the 8 bytes are the type.
        return self._unpack(result[0] & 0xFFFFFFFF, result[1])

    def check(self, status: int) -> None:
        """Raise the runtime's error as a RuntimeCallError if a C function has returned another status than zero."""
        if status == 0:
            return
        handle = ctypes.c_void_p()
        self.interface.TVMFFIErrorMoveFromRaised(ctypes.byref(handle))
        raised = Object(self, handle.value or 0, _ERROR)
        error = _Error.from_address(raised.handle + _OBJECT_HEADER_BYTES)
        raise RuntimeCallError(f"{error.kind.text()}: {error.message.text()}")

    def _find(self, name: str) -> Function | None:
        text, handle = ctypes.create_string_buffer(name.encode()), ctypes.c_void_p()
        key = _Bytes(ctypes.addressof(text), len(text.value))
        self.check(self.interface.TVMFFIFunctionGetGlobal(ctypes.byref(key), ctypes.byref(handle)))
        return None if handle.value is None else Function(self, handle.value, _FUNCTION)

    def _pack(self, value: Value, kept: list[Any]) -> tuple[int, int]:
        """Return an argument's type and value. Objects that must live until the call is over are appended to `kept`."""
        if value is None:
            return _NONE, 0
        if isinstance(value, bool):
            return _BOOL, value
        if isinstance(value, int):
            return _INT, value
        if isinstance(value, str):
            text = ctypes.create_string_buffer(value.encode(errors="surrogateescape"))
            kept.append(text)
            return _RAW_TEXT, ctypes.addressof(text)
        array = value if isinstance(value, Object) else self.function("ffi.Array")(*value)
        kept.append(array)
        return array.type, array.handle

    def _unpack(self, type_: int, value: int) -> Any:
        if type_ == _NONE:
            return None
        if type_ in (_INT, _BOOL):
            return value
        if type_ < _FIRST_OBJECT:
            raise RuntimeCallError(f"a function returned a value of type {type_}, which this can't read")
        returned = _CLASSES.get(type_, Object)(self, value, type_)
        return _Bytes.from_address(value + _OBJECT_HEADER_BYTES).content() if type_ == _BYTES else returned


_CLASSES: dict[int, type[Object]] = {_FUNCTION: Function, _TENSOR: Tensor, _ARRAY: Array, _MODULE: Module}


@functools.cache
def runtime() -> Runtime:
    """Return the runtime of this process."""
    return Runtime()


def _library(package: str, distribution: str) -> Path:
    """Return the path of a package's library, without importing the package.

    The distribution onnx-int8-runner contains TVM's libraries itself, in a folder beside this module.

    Raises:
        ArtifactError: the package isn't installed.
    """
    name = {"tvm_ffi": "libtvm_ffi.so", "tvm": "libtvm_runtime.so"}[package]
    folders = [Path(__file__).parent]
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin:
        folders.append(Path(spec.origin).parent)
    found = [path for folder in folders if (path := folder / "lib" / name).is_file()]
    if not found:
        raise ArtifactError(f"TVM's runtime isn't installed. Install the {distribution} package.")
    return found[0]


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_rename_capsule = ctypes.pythonapi.PyCapsule_SetName
_rename_capsule.argtypes = [ctypes.py_object, ctypes.c_char_p]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
