"""Sections are found as pyelftools finds them, in any ELF file; damaged files are errors."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.library.elf import ElfError, find_section, undefined_symbols, with_sections_excluded
from tests.properties import examples

SOURCE = """
    .data
    .byte 1, 2, 3
    .section .mine, "a", %progbits
    .ascii "content"
"""

ARCHITECTURES = ["x86_64", "aarch64", "arm", "s390x", "powerpc"]
"""Of both word sizes and byte orders."""


@pytest.fixture(scope="module", params=ARCHITECTURES)
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("objects")
    (folder / "source.s").write_text(SOURCE)
    system = {"arm": "linux-musleabihf", "powerpc": "linux-musleabihf"}.get(request.param, "linux-musl")
    compiler = (sys.executable, "-m", "ziglang", "cc", "-target", f"{request.param}-{system}")
    subprocess.run([*compiler, "-c", "source.s", "-o", "object.o"], cwd=folder, check=True)
    return (folder / "object.o").read_bytes()


def assert_found_as_by_pyelftools(content: bytes) -> None:
    names = set()
    for section in ELFFile(io.BytesIO(content)).iter_sections():
        if section.name in names or section["sh_type"] in ("SHT_NULL", "SHT_NOBITS"):
            continue
        names.add(section.name)
        found = find_section(io.BytesIO(content), section.name)
        assert found is not None
        assert (found.offset, found.size) == (section["sh_offset"], section["sh_size"])
    assert names


def test_sections_of_objects_for_every_kind_of_cpu_are_found(content: bytes) -> None:
    found = find_section(io.BytesIO(content), ".mine")
    assert found is not None
    assert content[found.offset :][: found.size] == b"content"
    assert_found_as_by_pyelftools(content)


def test_only_the_sections_to_exclude_get_another_flag(content: bytes) -> None:
    excluded = with_sections_excluded(content, {".mine", ".not-there"})
    assert len(excluded) == len(content)
    for before, after in zip(*(ELFFile(io.BytesIO(c)).iter_sections() for c in (content, excluded)), strict=True):
        assert after["sh_flags"] == before["sh_flags"] | (1 << 31 if before.name == ".mine" else 0)
        assert after.data() == before.data()


def test_sections_of_a_library_are_found(library: Path) -> None:
    assert_found_as_by_pyelftools(library.read_bytes())


@pytest.mark.parametrize("system", ["x86_64-linux-musl", "aarch64-linux-musl", "arm-linux-musleabihf"])
def test_undefined_symbols_are_those_that_pyelftools_finds(system: str, tmp_path: Path) -> None:
    word = ".long" if system.startswith("arm-") else ".quad"
    code = f".globl there\n .data\nthere: {word} 0\n {word} absent\n {word} also_absent\n"
    (tmp_path / "source.s").write_text(code)
    compiler = (sys.executable, "-m", "ziglang", "cc", "-target", system, "-nostdlib", "-shared")
    subprocess.run([*compiler, "source.s", "-o", "library.so"], cwd=tmp_path, check=True)
    with (tmp_path / "library.so").open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        expected = {s.name for s in symbols if s.name and s["st_shndx"] == "SHN_UNDEF"}
        assert {"absent", "also_absent"} <= expected
        assert undefined_symbols(file) == expected


def test_a_section_that_is_not_there_is_not_found(content: bytes) -> None:
    for name in (".min", ".mine2", "nothing"):
        assert find_section(io.BytesIO(content), name) is None


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(9), b"#!/bin/sh\n" * 20])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ElfError):
        find_section(io.BytesIO(data), ".mine")


@examples(200)
@given(data=st.data())
def test_damage_is_refused_or_leads_to_bytes_of_the_file(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    table = ELFFile(io.BytesIO(content))["e_shoff"]
    headers = [*range(0x40), *range(table, len(content))]
    for position in data.draw(st.lists(st.sampled_from(headers), min_size=1, max_size=6)):
        damaged[position] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    del damaged[data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged)))) :]
    try:
        found = find_section(io.BytesIO(bytes(damaged)), ".mine")
    except ElfError:
        return
    assert found is None or 0 <= found.offset <= found.offset + found.size <= len(damaged)
