"""What a linked library needs from the system that loads it, and what it doesn't contain."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from elftools.elf.elffile import ELFFile

import pipeline
from pipeline.errors import BuildError, OptionError
from pipeline.importer import import_proto
from pipeline.library import link
from pipeline.library.link import _Linker, check_library_writable
from pipeline.runtime.local import Runner
from pipeline.targets import list_targets, load_target
from tests.models import ModelBuilder, import_test_model
from tests.runtime.conftest import LibraryFor
from tests.runtime.emulation import REPOSITORY
from tests.runtime.models import quantized_model, sample

TARGETS = [target.name for target in list_targets() if target.name != "host"]


@pytest.mark.parametrize(("name", "asks"), [("x86-64-v4-amx", True), ("x86-64-v4-vnni", False)])
def test_a_library_with_tile_registers_asks_the_system_for_them(name: str, asks: bool, library_for: LibraryFor) -> None:
    path = library_for(name)
    with path.open("rb") as file:
        functions = ELFFile(file).get_section_by_name(".init_array")["sh_size"] // 8
    # Every library expands its constants.
    assert functions == (2 if asks else 1)
    # Where there are no tiles, the system refuses; loading goes on.
    assert tvm.runtime.load_module(str(path)).implements_function("vm_load_executable")


def dynamic_tags(path: Path) -> dict[str, list[Any]]:
    with path.open("rb") as file:
        tags: dict[str, list[Any]] = {}
        for tag in ELFFile(file).get_section_by_name(".dynamic").iter_tags():
            tags.setdefault(tag.entry.d_tag, []).append(getattr(tag, tag.entry.d_tag[3:].lower(), tag.entry.d_val))
        return tags


@pytest.mark.parametrize("name", TARGETS)
def test_a_library_asks_for_nothing_but_the_runtime(name: str, library_for: LibraryFor) -> None:
    path = library_for(name)
    tags = dynamic_tags(path)
    assert tags["DT_SONAME"] == [path.name]
    assert "DT_NEEDED" not in tags
    assert "DT_TEXTREL" not in tags
    with path.open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".dynsym").iter_symbols()
        undefined = {s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and s.name}
        assert all(s.startswith(("TVMFFI", "TVMBackend")) for s in undefined), undefined
        assert elf.get_section_by_name(".gnu.version_r") is None


@pytest.mark.parametrize("name", TARGETS)
def test_a_library_can_be_mapped_and_never_has_writable_code(name: str, library_for: LibraryFor) -> None:
    with library_for(name).open("rb") as file:
        segments = list(ELFFile(file).iter_segments())
    loaded = [s for s in segments if s["p_type"] == "PT_LOAD"]
    assert {s["p_align"] for s in loaded} == {load_target(name).linker.page_size}
    writable, executable = 2, 1
    assert not [s for s in loaded if s["p_flags"] & writable and s["p_flags"] & executable]
    (stack,) = [s for s in segments if s["p_type"] == "PT_GNU_STACK"]
    assert not stack["p_flags"] & executable


def test_equal_inputs_give_equal_bytes_wherever_they_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    for name in ("a", "b/deeper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        monkeypatch.chdir(folder)
        built.append(quantized_model().build("android-arm64", folder / "model.so").read_bytes())
    assert built[0] == built[1]


def test_no_path_of_the_building_machine_is_inside(library: Path) -> None:
    content = library.read_bytes()
    for path in (str(REPOSITORY), str(library.parent), str(Path.home()), sys.prefix):
        assert path.encode() not in content


@pytest.fixture(scope="module")
def atan_model() -> pipeline.Program:
    """A model that calls `atanf`, which zig's compiler runtime doesn't have."""
    nodes = [onnx.helper.make_node("Atan", ["x"], ["y"])]
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 64]) for n in "xy")
    graph = onnx.helper.make_graph(nodes, "atan", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    return import_proto(model, {}, "atan", "0" * 64)


def test_android_is_asked_for_libm_by_name_when_a_model_needs_it(tmp_path: Path, atan_model: pipeline.Program) -> None:
    path = pipeline.compile_program(atan_model, load_target("android-arm64"), tmp_path / "atan.so")
    assert dynamic_tags(path).get("DT_NEEDED") == ["libm.so"]
    again = pipeline.compile_program(atan_model, load_target("linux-aarch64"), tmp_path / "erf_linux.so")
    assert "DT_NEEDED" not in dynamic_tags(again)


def test_functions_of_libm_are_found_in_this_process(tmp_path: Path, atan_model: pipeline.Program) -> None:
    path = pipeline.compile_program(atan_model, load_target("host"), tmp_path / "atan.so")
    x = np.linspace(-3, 3, 64, dtype="float32").reshape(1, 64)
    (y,) = Runner(path).run({"x": x}).values()
    np.testing.assert_allclose(y[0], [math.atan(v) for v in x[0]], rtol=1e-6)


FUNCTIONS = {
    **{"Acos": np.arccos, "Acosh": np.arccosh, "Asin": np.arcsin, "Asinh": np.arcsinh, "Atan": np.arctan},
    **{"Atanh": np.arctanh, "Cos": np.cos, "Cosh": np.cosh, "Exp": np.exp, "Log": np.log, "Sin": np.sin},
    **{"Sinh": np.sinh, "Sqrt": np.sqrt, "Tan": np.tan, "Tanh": np.tanh},
}


def test_every_function_of_the_standard_is_found_in_this_process(tmp_path: Path) -> None:
    b = ModelBuilder()
    names = {b.node(name, "x"): function for name, function in FUNCTIONS.items()}
    path = pipeline.compile_program(
        import_test_model(b.model({"x": [1, 2]}, *names)), load_target("host"), tmp_path / "all.so"
    )
    x = np.array([[0.5, 1.5]], "float32")
    for name, actual in Runner(path).run({"x": x}).items():
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(actual, names[name](x), rtol=1e-5)


def test_another_compiler_can_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no cc")
    monkeypatch.setenv("PIPELINE_LINKER", "cc")
    path = quantized_model().build("host", tmp_path / "system.so")
    expected = Runner(library).run(sample(0))
    np.testing.assert_array_equal(Runner(path).run(sample(0))["logits"], expected["logits"])
    assert pipeline.read_metadata(path) == pipeline.read_metadata(library)


def test_an_android_ndk_is_used_for_android_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clang = tmp_path / "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin/clang"
    clang.parent.mkdir(parents=True)
    clang.write_text('#!/bin/sh\necho "called with $1" >&2\nexit 3\n')
    clang.chmod(0o755)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    with pytest.raises(BuildError, match="android-arm64 failed:\ncalled with --target=aarch64-linux-android24"):
        quantized_model().build("android-arm64", tmp_path / "model.so")
    assert quantized_model().build("linux-aarch64", tmp_path / "model.so").exists()


def test_an_ndk_without_a_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    with pytest.raises(OptionError, match=r"ANDROID_NDK_HOME is .*holds no toolchains"):
        quantized_model().build("android-arm64", tmp_path / "model.so")


@pytest.mark.parametrize("name", ["a,b c.so", "-o.so", "\u00fc.so"])
def test_a_library_may_have_any_name_that_ends_with_so(name: str, tmp_path: Path, library: Path) -> None:
    path = quantized_model().build("host", tmp_path / name)
    assert dynamic_tags(path)["DT_SONAME"] == [name]
    np.testing.assert_array_equal(Runner(path).run(sample(0))["logits"], Runner(library).run(sample(0))["logits"])


def test_a_failing_linker_leaves_the_former_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(b"former")
    monkeypatch.setenv("PIPELINE_LINKER", "ld --no-such-option")
    with pytest.raises(BuildError, match="no-such-option"):
        quantized_model().build("host", path)
    assert path.read_bytes() == b"former"
    assert [p.name for p in tmp_path.iterdir()] == ["model.so"]


@pytest.mark.parametrize(("made", "message"), [("/dev/null", "isn't an ELF file"), ("/bin/true", "has no section")])
def test_a_linker_that_makes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, message: str
) -> None:
    linker = tmp_path / "linker"
    linker.write_text(f'#!/bin/sh\nfor output; do :; done\ncp {made} "$output"\n')
    linker.chmod(0o755)
    monkeypatch.setenv("PIPELINE_LINKER", str(linker))
    with pytest.raises(BuildError, match=rf"linker hasn't linked what can be used\. The library {message}"):
        quantized_model().build("host", tmp_path / "model.so")
    assert not (tmp_path / "model.so").exists()


def test_a_missing_linker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_LINKER", "no-such-linker")
    with pytest.raises(BuildError, match=r"no-such-linker couldn't be started: No such file"):
        quantized_model().build("host", tmp_path / "model.so")


def test_zigs_cache_may_be_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert quantized_model().build("host", tmp_path / "model.so").exists()


def test_sources_of_all_libraries_are_compiled_once_for_each_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    call = _Linker._call
    monkeypatch.setattr(
        _Linker, "_call", lambda self, given, *rest, **k: (calls.append(given), call(self, given, *rest, **k))
    )
    monkeypatch.setattr(link, "_objects", {})
    link.compile_ahead(load_target("host"))
    assert [arguments[-3] for arguments in calls] == ["library.c", "expand.c"]
    calls.clear()
    quantized_model().build("host", tmp_path / "model.so")
    assert not [arguments for arguments in calls if {"library.c", "expand.c"} & {*arguments}]


@pytest.mark.parametrize("path", ["/proc/model.so", "/no/such/folder/model.so", "/tmp/model.dll", "/tmp"])  # noqa: S108
def test_an_output_that_cannot_be_written_is_refused_at_once(path: str) -> None:
    with pytest.raises(OptionError, match=path):
        check_library_writable(Path(path))
