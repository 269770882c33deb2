"""Inputs for a library, from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import SampleError
from pipeline.files import load_arrays, stored_arrays
from pipeline.ir.program import TensorSpec
from pipeline.runtime.tensors import Array, check_types
from pipeline.samples.fitting import arrays_of


def read_inputs(file: Path, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the arrays of an .npz file by name, or that of an .npy file as the only input.

    Raises:
        SampleError: the file can't be read, or doesn't hold the inputs; no values are read before that is known.
    """
    arrays = arrays_of(stored_arrays(file), inputs, str(file))
    try:
        check_types(arrays, inputs)
    except SampleError as error:
        raise SampleError(f"Sample {file}: {error}") from error
    loaded = load_arrays(file)
    return loaded if isinstance(loaded, dict) else {inputs[0].name: loaded}
