"""Reads the inputs for a library from a file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pipeline.errors import OptionError, SampleError
from pipeline.files import load_arrays, stored_arrays
from pipeline.library.metadata import ArtifactMetadata
from pipeline.runtime.tensors import Array, check_feed_types
from pipeline.samples.fitting import arrays_of
from pipeline.samples.images import is_picture, preprocess


def read_inputs(file: Path, metadata: ArtifactMetadata) -> dict[str, Array]:
    """Return the arrays of an .npz file by name, or the array of an .npy file or a picture as the only input.

    Args:
        file: the file.
        metadata: metadata of the library that the inputs are for.

    Raises:
        SampleError: the file can't be read, or doesn't contain the inputs. Names, shapes and dtypes are checked before
            values are read.
        OptionError: the library doesn't say how pictures become inputs.
    """
    inputs = metadata.inputs
    if is_picture(file):
        if metadata.preprocessing is msgspec.UNSET:
            raise OptionError(
                f"The library doesn't say how the picture {file} becomes its input. Give an array (.npy), or build the "
                "library with pictures as --samples."
            )
        return {inputs[0].name: preprocess(file, metadata.preprocessing, inputs[0].dtype)}
    arrays = arrays_of(stored_arrays(file), inputs, str(file))
    try:
        check_feed_types(arrays, inputs)
    except SampleError as error:
        raise SampleError(f"Sample {file}: {error}") from error
    loaded = load_arrays(file)
    return loaded if isinstance(loaded, dict) else {inputs[0].name: loaded}
