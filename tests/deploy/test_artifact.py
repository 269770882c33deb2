"""Metadata: what is written is read, and a damaged file is refused, however it is damaged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.artifact import MAX_METADATA_BYTES, METADATA_SECTION, read_metadata
from pipeline.errors import ArtifactError
from pipeline.targets import load_target
from tests.deploy.models import SHAPE, quantized_model
from tests.properties import scaled

quick = settings(max_examples=scaled(40), suppress_health_check=[HealthCheck.function_scoped_fixture])


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


def tampered(library: Path, folder: Path, change: Tamper) -> Path:
    path = folder / "tampered.so"
    path.write_bytes(change(library.read_bytes()))
    return path


@quick
@given(share=st.floats(0, 0.999))
def test_a_cut_off_library_is_refused(library: Path, tmp_path: Path, share: float) -> None:
    path = tampered(library, tmp_path, lambda data: data[: int(share * len(data))])
    with pytest.raises(ArtifactError, match=r"tampered\.so"):
        read_metadata(path)


@quick
@given(data=st.data())
def test_flipped_bytes_are_refused_or_harmless(library: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(library.read_bytes())
    headers = [*range(0x40), *range(len(content) - 2048, len(content))]
    for position in data.draw(st.lists(st.sampled_from(headers), min_size=1, max_size=4)):
        content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "tampered.so"
    path.write_bytes(bytes(content))
    try:
        metadata = read_metadata(path)
    except ArtifactError as error:
        assert "tampered.so" in str(error)  # noqa: PT017
    else:
        assert metadata == read_metadata(library)


def test_damaged_json_is_refused(library: Path, tmp_path: Path) -> None:
    path = tampered(library, tmp_path, lambda data: data.replace(b'"kind":"int8"', b'"kind":"int9"'))
    with pytest.raises(ArtifactError, match=r"damaged metadata(.|\n)*kind"):
        read_metadata(path)


def test_a_newer_pipelines_library_is_refused_with_the_reason(library: Path, tmp_path: Path) -> None:
    path = tampered(library, tmp_path, lambda data: data.replace(b'"schema_version":2', b'"schema_version":3'))
    with pytest.raises(ArtifactError, match=r"newer pipeline.*version 3.*reads version 2"):
        read_metadata(path)


def test_a_huge_claim_allocates_nothing(library: Path, tmp_path: Path) -> None:
    with library.open("rb") as file:
        elf = ELFFile(file)
        index = elf.get_section_index(METADATA_SECTION)
        header = elf["e_shoff"] + index * elf["e_shentsize"]
    size = (MAX_METADATA_BYTES + 1).to_bytes(8, "little")
    path = tampered(library, tmp_path, lambda data: data[: header + 32] + size + data[header + 40 :])
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
