"""Metadata: what is written is read, and a damaged file is refused, however it is damaged."""

from __future__ import annotations

import binascii
import bz2
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.errors import ArtifactError, SampleError, TargetError
from pipeline.library.elf import find_section
from pipeline.library.metadata import (
    CHECKSUM_SECTION,
    MAX_METADATA_BYTES,
    METADATA_SECTION,
    OPERATORS_SECTION,
    SCHEMA_VERSION,
    read_metadata,
    with_checksum,
)
from pipeline.runtime.local import Runner
from pipeline.targets import load_target
from tests.properties import examples
from tests.runtime.metadata import stored_metadata, with_metadata, with_section
from tests.runtime.models import SHAPE, quantized_model, sample


def test_a_library_says_what_it_is(library: Path) -> None:
    quantized, metadata = quantized_model(), read_metadata(library)
    assert (metadata.model, metadata.kind) == (quantized.program.name, "int8")
    assert [(i.name, i.shape, i.dtype) for i in metadata.inputs] == [("x", SHAPE, "float32")]
    assert [o.name for o in metadata.outputs] == ["logits", "probability"]
    assert metadata.model_sha256 == quantized.program.source_sha256
    assert set(metadata.versions) == {"onnx-int8-pipeline", "apache-tvm", "onnx", "numpy"}
    assert [o.operator for o in metadata.float_operators if o.name == "probability"] == ["softmax"]


def test_a_library_says_what_it_was_built_for(library: Path) -> None:
    target, stated = load_target("host"), read_metadata(library).target
    assert (stated.name, stated.triple, stated.cpu) == (target.name, target.triple, target.cpu)
    assert (stated.features, stated.required_features) == (target.features, target.required_features)
    assert (stated.architecture, stated.instruction_set) == (target.architecture, target.instruction_set)


def test_a_float_library_has_no_table(tmp_path: Path) -> None:
    path = pipeline.compile_program(quantized_model().source, load_target("host"), tmp_path / "float.so")
    metadata = read_metadata(path)
    assert (metadata.kind, metadata.table_sha256, metadata.quantization) == ("float32", None, {})


Tamper = Callable[[bytes], bytes]


def tampered(library: bytes, folder: Path, change: Tamper) -> Path:
    """Write a library with changed content, and with a checksum that matches it, if it has one."""
    path = folder / "tampered.so"
    path.write_bytes(with_checksum(change(library)))
    return path


@examples(400)
@given(data=st.data())
def test_a_library_with_any_bits_flipped_is_refused_before_it_is_loaded(
    library: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(library.read_bytes())
    positions = st.integers(0, 8 * len(content) - 1)
    for position in data.draw(st.sets(positions, min_size=1, max_size=3)):
        content[position // 8] ^= 1 << position % 8
    path = tmp_path_factory.getbasetemp() / "flipped.so"
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"flipped\.so"):
        Runner(path)


HEADER_BYTES = 0x40 + 8 * 0x38
"""ELF's header and the program headers, which say what is mapped where."""


@pytest.mark.parametrize("byte", range(0, HEADER_BYTES, 3))
def test_a_library_with_any_damaged_header_is_refused_before_it_is_loaded(
    library: Path, tmp_path: Path, byte: int
) -> None:
    content = bytearray(library.read_bytes())
    content[byte] ^= 0x80
    path = tmp_path / "damaged.so"
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"damaged\.so"):
        Runner(path)


@examples(200)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_off_library_is_refused(library: Path, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    content = library.read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.so"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError, match=r"cut\.so"):
        Runner(path)


def test_bytes_that_were_added_are_refused(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "longer.so"
    path.write_bytes(library.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match=r"longer\.so is damaged: its content isn't what it was.*build it again"):
        read_metadata(path)


def test_the_checksum_is_the_crc_32_of_all_other_bytes(library: Path) -> None:
    content = library.read_bytes()
    section = find_section(io.BytesIO(content), CHECKSUM_SECTION)
    assert section is not None
    start, end = section.offset, section.offset + section.size
    assert int.from_bytes(content[start:end], "little") == binascii.crc32(content[:start] + content[end:])


def test_a_library_that_lost_its_checksum_is_refused(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "without.so"
    path.write_bytes(library.read_bytes().replace(CHECKSUM_SECTION.encode(), b".pipeline.checksun"))
    with pytest.raises(ArtifactError, match=r"without.so is damaged: it has lost its section \.pipeline\.checksum"):
        read_metadata(path)


@pytest.mark.parametrize("version", [1, 2])
def test_older_libraries_have_no_checksum_and_are_read(library: Path, tmp_path: Path, version: int) -> None:
    path = with_metadata(library, tmp_path / "tampered.so", lambda m: m.update(schema_version=version))
    path.write_bytes(path.read_bytes().replace(CHECKSUM_SECTION.encode(), b".pipeline.nothing!"))
    assert read_metadata(path).schema_version == version


def test_damaged_json_is_refused(library: Path, tmp_path: Path) -> None:
    path = tampered(library.read_bytes(), tmp_path, lambda data: data.replace(b'"kind":"int8"', b'"kind":"int9"'))
    with pytest.raises(ArtifactError, match=r"damaged metadata(.|\n)*kind"):
        read_metadata(path)


def test_deeply_nested_json_is_refused(library: Path, tmp_path: Path) -> None:
    with library.open("rb") as file:
        section = find_section(file, METADATA_SECTION)
    assert section is not None
    nested = b'{"x":'.ljust(section.size, b"[")
    path = tampered(
        library.read_bytes(),
        tmp_path,
        lambda data: data[: section.offset] + nested + data[section.offset + section.size :],
    )
    with pytest.raises(ArtifactError, match="damaged metadata"):
        read_metadata(path)


@dataclass(frozen=True)
class Metadata:
    """A change of the metadata, and the error that follows."""

    name: str
    change: Callable[[dict[str, Any]], Any]
    message: str


IMPOSSIBLE = [
    Metadata("unknown dtype", lambda m: m["inputs"][0].update(dtype="float31"), r"input 'x': the dtype 'float31' is"),
    Metadata("dtype of NumPy alone", lambda m: m["inputs"][0].update(dtype="O"), r"input 'x': the dtype 'O' is none"),
    Metadata("negative size", lambda m: m["inputs"][0].update(shape=[1, -3]), r"input 'x': a size .* is negative"),
    Metadata(
        "absurd size", lambda m: m["outputs"][0].update(shape=[2**62] * 3), r"output 'logits': .* exceed \d+ bytes"
    ),
    Metadata("4 TiB", lambda m: m["inputs"][0].update(shape=[2**40]), r"input 'x': .* exceed \d+ bytes"),
    Metadata("65 dimensions", lambda m: m["inputs"][0].update(shape=[1] * 65), r"65 dimensions, the limit is 64"),
    Metadata("size of 1e3", lambda m: m["inputs"][0].update(shape=[1e3]), r"inputs\[0\]\.shape|Expected `int`"),
    Metadata("no inputs", lambda m: m.update(inputs=[]), r"length >= 1.*inputs"),
    Metadata("no outputs", lambda m: m.update(outputs=[]), r"length >= 1.*outputs"),
    Metadata("equal names", lambda m: m.update(outputs=m["outputs"][:1] * 2), r"two outputs have the same name"),
    Metadata(
        "operator's dtype", lambda m: m["operators"][0]["output"].update(dtype="f"), r"operator .*the dtype 'f' is"
    ),
    Metadata("negative work", lambda m: m["operators"][0].update(multiply_adds=-1), r">= 0.*multiply_adds"),
    Metadata("negative scale", lambda m: m["quantization"]["r1"].update(scale=-1.0), r"-1.0 isn't.*quantization"),
    Metadata("zero point", lambda m: m["quantization"]["r1"].update(zero_point=256), r"256 isn't in.*quantization"),
    Metadata("a field is missing", lambda m: m.pop("target"), r"missing required field `target`"),
    Metadata("an unknown field", lambda m: m.update(more=1), r"unknown field `more`"),
    Metadata("another type", lambda m: m.update(model=None), r"Expected `str`, got `null`"),
]


@pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.name)
def test_metadata_of_what_cannot_be_is_refused(library: Path, tmp_path: Path, case: Metadata) -> None:
    path = with_metadata(library, tmp_path / "tampered.so", case.change)
    with pytest.raises(ArtifactError, match=rf"tampered\.so has damaged metadata(.|\n)*{case.message}"):
        Runner(path)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 12, 2**31, 2**40, 2**62, 2**64, 10**30, 0.5, 1e300])
    | st.sampled_from(["", "x", "logits", "float32", "uint8", "O", "avx512f", "[/x]", "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "shape", "y"]), inner),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every list or object inside of a JSON value, with each of its indices or keys."""
    if not isinstance(value, list | dict):
        return []
    keys = list(range(len(value))) if isinstance(value, list) else list(value)
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@examples(300)
@given(data=st.data())
def test_a_library_with_any_other_metadata_runs_as_before_or_is_refused(
    library: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    def change(metadata: dict[str, Any]) -> None:
        for name in ("quantization", "versions", "float_operators"):
            metadata[name] = type(metadata[name])()
        container, key = data.draw(st.sampled_from(places(metadata)))
        container[key] = data.draw(VALUES)

    path = tmp_path_factory.getbasetemp() / "other.so"
    path.unlink(missing_ok=True)
    with_metadata(library, path, change)
    try:
        runner = Runner(path, 1)
        outputs = runner.run(dict.fromkeys((i.name for i in runner.inputs), sample(0)["x"]))
    except (ArtifactError, TargetError, SampleError):
        return
    expected = Runner(library, 1).run(sample(0))
    for got, wanted in zip(outputs.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_operators_of_an_older_library_are_part_of_the_metadata(library: Path, tmp_path: Path) -> None:
    metadata = json.dumps(stored_metadata(library.read_bytes())).encode()
    data = with_section(library.read_bytes(), METADATA_SECTION, metadata)
    path = tampered(data, tmp_path, lambda data: data.replace(OPERATORS_SECTION.encode(), b".pipeline.elsewhere"))
    assert read_metadata(path) == read_metadata(library)
    assert read_metadata(path).operators


@pytest.mark.parametrize(
    "operators",
    [b"", b"[]", bz2.compress(b"[")[:-1], bz2.compress(b"[" + bytes(MAX_METADATA_BYTES)), bz2.compress(b"[{}]")],
    ids=["empty", "not compressed", "cut off", "huge", "of other fields"],
)
def test_damaged_operators_are_refused(library: Path, tmp_path: Path, operators: bytes) -> None:
    path = tampered(library.read_bytes(), tmp_path, lambda data: with_section(data, OPERATORS_SECTION, operators))
    with pytest.raises(ArtifactError, match=r"tampered\.so has damaged metadata"):
        read_metadata(path)


def test_a_newer_pipelines_library_is_refused_with_the_reason(library: Path, tmp_path: Path) -> None:
    path = with_metadata(library, tmp_path / "tampered.so", lambda m: m.update(schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(ArtifactError, match=rf"newer pipeline.*version {SCHEMA_VERSION + 1}.*reads version"):
        read_metadata(path)


def test_a_huge_claim_allocates_nothing(library: Path, tmp_path: Path) -> None:
    with library.open("rb") as file:
        elf = ELFFile(file)
        index = elf.get_section_index(METADATA_SECTION)
        header = elf["e_shoff"] + index * elf["e_shentsize"]
    size = (MAX_METADATA_BYTES + 1).to_bytes(8, "little")
    path = tampered(library.read_bytes(), tmp_path, lambda data: data[: header + 32] + size + data[header + 40 :])
    with pytest.raises(ArtifactError, match=f"claims {MAX_METADATA_BYTES + 1} bytes"):
        read_metadata(path)


def test_another_library_is_refused(tmp_path: Path) -> None:
    import tvm_ffi

    with pytest.raises(ArtifactError, match="wasn't built by this pipeline"):
        read_metadata(Path(tvm_ffi.libinfo.find_libtvm_ffi()))
    (tmp_path / "text.so").write_text("not a library")
    with pytest.raises(ArtifactError, match="isn't a shared library"):
        read_metadata(tmp_path / "text.so")
    with pytest.raises(ArtifactError, match="No such file"):
        read_metadata(tmp_path / "none.so")
    with pytest.raises(ArtifactError, match="directory"):
        read_metadata(Path(sys.prefix))
