"""Links a compiled program into one shared library that carries its metadata and a checksum of its content.

The default linker is `zig cc` from the ziglang package, so that no compiler has to be installed for any target. The
library needs no other library: the functions that LLVM calls (`expf`, `memcpy`, ...) come from zig's compiler runtime,
which has the same code on every target, and TVM's functions from the runtime that loads the library. Equal inputs give
equal bytes.

Environment variables choose another compiler driver, whose C library then provides `expf` and the like:
    PIPELINE_LINKER      a command, such as "aarch64-linux-gnu-gcc".
    ANDROID_NDK_HOME     an Android NDK; only for targets with `linker.ndk_target`.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from pipeline.errors import ArtifactError, BuildError, OptionError
from pipeline.files import check_writable, temporary_folder, write_bytes
from pipeline.ir.tvm_private.relax import RUNTIME_DATA, runtime_data
from pipeline.library.constants import ALIGNMENT, CONSTANTS_SECTION, PACKED_SECTION, ConstantPool
from pipeline.library.elf import undefined_symbols
from pipeline.library.metadata import (
    CHECKSUM_SECTION,
    MAX_METADATA_BYTES,
    METADATA_SECTION,
    OPERATORS_SECTION,
    with_checksum,
)
from pipeline.targets import Target

if TYPE_CHECKING:
    from tvm import relax

_log = logging.getLogger(__name__)

_LINKER_VARIABLE = "PIPELINE_LINKER"

_RUNTIME_PREFIXES = ("TVMFFI", "TVMBackend")
"""Prefixes of the names of TVM's runtime functions."""

_LIBM_FUNCTIONS = frozenset(
    f"{name}f"
    for name in (
        *("acos", "acosh", "asin", "asinh", "atan", "atan2", "cosh", "sinh", "tanh"),
        *("erf", "nearbyint", "pow", "rint"),
    )
)
"""Functions of libm that LLVM or TVM may call and that zig's compiler runtime doesn't have."""

_CODE_OPTIONS = ("-O2", "-g0", "-fno-asynchronous-unwind-tables")

_SYSTEM_LIBRARIES = ("-Wl,--as-needed", "-lm", "-lc")


@dataclass(frozen=True)
class _Driver:
    """A compiler driver that links.

    Attributes:
        command: the command, with the arguments that select the target.
        libraries: arguments that link the functions that LLVM calls.
        self_contained: whether `libraries` are linked statically, so that no other library is needed.
        keeps_objects: whether it compiles what it has compiled before in no time.
    """

    command: tuple[str, ...]
    libraries: tuple[str, ...]
    self_contained: bool
    keeps_objects: bool = False


def check_library_writable(path: Path) -> None:
    """Refuse an output path that can't be written, before any work is done.

    Raises:
        OptionError: the name doesn't end with ".so", which TVM needs to load it; or see `files.check_writable`.
    """
    if path.suffix != ".so":
        raise OptionError(f"The output {path} is a shared library; end its name with .so.")
    check_writable(path)


@dataclass(frozen=True)
class Sections:
    """What a library contains beside its code.

    Attributes:
        metadata: for `METADATA_SECTION`.
        operators: for `OPERATORS_SECTION`.
        constants: of its kernels.
        compressed: whether small constants are compressed, see `ConstantPool.stored`.
    """

    metadata: bytes
    operators: bytes
    constants: ConstantPool = field(default_factory=ConstantPool)
    compressed: bool = True


def link(
    executable: relax.VMExecutable, target: Target, sections: Sections, path: Path, with_functions: bool = True
) -> None:
    """Write an executable as a shared library.

    Args:
        executable: code, compiled for `target.tvm_target()`.
        target: what to link for.
        sections: what the library contains beside the code.
        path: the library. It is written completely or not at all. Its file name becomes the soname.
        with_functions: whether the functions that LLVM calls are linked into it, rather than found in the process that
            loads it.

    Raises:
        BuildError: the linker failed (its own message is included), or the program calls a function that no library on
            the target is known to have.
        OptionError: the output can't be written, or the environment names a linker that doesn't exist.
    """
    check_library_writable(path)
    length = max(len(sections.metadata), len(sections.operators))
    if length > MAX_METADATA_BYTES:
        raise BuildError(f"The metadata of {path} has {length} bytes; the limit is {MAX_METADATA_BYTES}.")
    program = runtime_data(executable)
    stored = sections.constants.stored(program, compressed=sections.compressed)
    with temporary_folder("pipeline-link-") as folder:
        (folder / "metadata.json").write_bytes(sections.metadata)
        (folder / "operators.bin").write_bytes(sections.operators)
        (folder / "constants.bin").write_bytes(stored.constants)
        (folder / "packed.bin").write_bytes(stored.packed)
        sources = {source.name: source.read_text(encoding="ascii") for source in _LIBRARY_SOURCES}
        sources[_SECTIONS] = _SECTIONS_SOURCE + _EXPANDED_SOURCE.format(size=stored.expanded)
        if program:
            part = "expanded" if stored.program_expanded else "constants"
            sources[_SECTIONS] += _PROGRAM_SOURCE.format(place=f"{part} + {stored.program}")
        sources |= {f"{f}.s": _START_UP_SOURCES[f] for f in target.required_features if f in _START_UP_SOURCES}
        (folder / "exports.map").write_text(_EXPORTS, encoding="ascii")
        for source, text in sources.items():
            (folder / source).write_text(text, encoding="ascii")
        linker = _Linker(_driver(target, with_functions), target, folder)

        def link_objects(output: str, objects: Sequence[str], **_options: Any) -> None:
            linker.link(Path(output), linker.compiled(list(dict.fromkeys([*objects, *sources]))))

        link_objects.output_format = "so"  # type: ignore[attr-defined]
        link_objects.get_target_triple = lambda: target.triple  # type: ignore[attr-defined]
        # In a folder of its own, as an object file could have the same name as the library.
        linked = folder / "linked" / path.name
        linked.parent.mkdir()
        # The program is in a source that is there anyway.
        options = {"fcompile": link_objects, "fpack_imports": lambda *_: _SECTIONS, "workspace_dir": str(folder)}
        executable.export_library(str(linked), **options)
        try:
            write_bytes(path, with_checksum(linked.read_bytes()))
        except ArtifactError as error:
            raise BuildError(f"{linker.driver.command[0]} hasn't linked what can be used. {error}") from error


_SECTIONS = "sections.s"
"""Name of the source of all sections."""

_SECTIONS_SOURCE = f"""\
    .section {METADATA_SECTION}, "aR", %progbits
    .incbin "metadata.json"
    .section {OPERATORS_SECTION}, "aR", %progbits
    .incbin "operators.bin"
    .section {CHECKSUM_SECTION}, "aR", %progbits
    .zero 4
    .section {CONSTANTS_SECTION}, "a", %progbits
    .p2align {ALIGNMENT.bit_length() - 1}
    .hidden constants
    .globl constants
constants:
    .incbin "constants.bin"
    .section {PACKED_SECTION}, "a", %progbits
    .p2align 2
    .hidden packed
    .globl packed
packed:
    .incbin "packed.bin"
    .section .note.GNU-stack, "", %progbits
"""
"""Assembly for every architecture. Metadata and checksum have flags that keep `strip` from dropping them."""

_EXPORTS = "{ global: __tvm_*; __TVM*; local: *; };"
"""Version script: what TVM's runtime looks up. What nothing else uses is left out, such as conversions of float16."""

_EXPANDED_SOURCE = f"""\
    .bss
    .p2align {ALIGNMENT.bit_length() - 1}
    .hidden expanded
    .globl expanded
expanded:
    .zero {{size}}
"""
"""Assembly of the memory for constants that are expanded."""

_PROGRAM_SOURCE = f"""\
    .globl {RUNTIME_DATA}
    .type {RUNTIME_DATA}, %object
    .set {RUNTIME_DATA}, {{place}}
"""
"""Assembly that says where the virtual machine's program is, once it is expanded: TVM's runtime asks for it later."""

_LIBRARY_SOURCES = tuple(Path(__file__).with_name(name) for name in ("library.c", "expand.c"))

_START_UP_SOURCES = {
    "amx_tile": """\
    .section .init_array, "aw", @init_array
    .p2align 3
    .quad request_tiles
    .text
request_tiles:
    movl $158, %eax      # arch_prctl
    movl $0x1023, %edi   # ARCH_REQ_XCOMP_PERM
    movl $18, %esi       # XFEATURE_XTILE_DATA
    syscall
    ret
    .section .note.GNU-stack, "", %progbits
""",
}
"""Code that runs when a library is loaded, by required feature: Linux grants AMX's tiles only to those who ask."""


_objects: dict[tuple[str, ...], bytes] = {}
"""Objects of `_LIBRARY_SOURCES` that this process has compiled, by the driver's command and the source's name."""

_compiling = threading.Lock()


@dataclass(frozen=True)
class _Linker:
    """Links in a folder, which is the working directory of all commands, so that no path gets into the library."""

    driver: _Driver
    target: Target
    folder: Path

    def link(self, output: Path, inputs: Sequence[str]) -> None:
        """Link the model's library.

        Raises:
            BuildError: the linker failed, or a symbol is undefined that the target may not have.
        """
        exported = ("-Wl,--version-script=exports.map",)
        self._run(output, output.name, [*inputs, *exported])
        if not self.driver.self_contained:
            return
        undefined = _undefined_symbols(output)
        unknown = undefined - _LIBM_FUNCTIONS
        if unknown:
            raise BuildError(
                f"The library for {self.target.name} calls functions that TVM's runtime doesn't have: "
                f"{', '.join(sorted(unknown))}. Link with a compiler that has them: set PIPELINE_LINKER."
            )
        if undefined and self.target.linker.ndk_target is not None:
            # Android's loader searches only the libraries that a library names. glibc's loader finds libm's functions
            # in the process, as TVM's runtime has loaded libm.
            self._run(output, output.name, [*inputs, *exported, self._link_stub("libm.so", undefined)])

    def compiled(self, inputs: Sequence[str]) -> list[str]:
        """Return inputs of `link` with objects in place of sources, if the driver keeps those that are always the same.

        The objects are in the same order, so the library is the same. Of one that isn't self-contained, which is a
        temporary one, sources of its own remain: the linker compiles them itself, in less time than another call takes.

        Raises:
            BuildError: compiling failed.
        """
        if not self.driver.keeps_objects:
            return list(inputs)
        always_same = {path.name for path in _LIBRARY_SOURCES}
        compiled = {i for i in inputs if i in always_same or (self.driver.self_contained and not i.endswith(".o"))}
        return [self._object(i) if i in compiled else i for i in inputs]

    def _object(self, source: str) -> str:
        made = str(Path(source).with_suffix(".o"))
        compile_source = (*_CODE_OPTIONS, "-fPIC", "-c", source, "-o", made)
        if source not in {path.name for path in _LIBRARY_SOURCES}:
            # It includes files of this library's, which zig doesn't know.
            self._call(compile_source, "Compiling", local_cache=self.folder / "zig")
            return made
        # Even what zig knows takes it some hundredths of a second.
        key = (*self.driver.command, source)
        # If another thread is compiling it, that will be done sooner.
        with _compiling:
            if key not in _objects:
                self._call(compile_source, "Compiling", local_cache=_zig_cache(self.folder / "zig-global"))
                _objects[key] = (self.folder / made).read_bytes()
        (self.folder / made).write_bytes(_objects[key])
        return made

    def _link_stub(self, soname: str, symbols: Iterable[str]) -> str:
        """Link a library that defines `symbols` without any code. It takes the place of the device's when linking."""
        lines = [".text", *(f".globl {s}\n.type {s}, %function\n{s}:" for s in sorted(symbols)), ".long 0\n"]
        (self.folder / "stub.s").write_text("\n".join(lines), encoding="ascii")
        folder = self.folder / "stub"
        folder.mkdir()
        self._run(folder / soname, soname, ["stub.s"])
        return f"stub/{soname}"

    def _run(self, output: Path, soname: str, inputs: Sequence[str]) -> None:
        page_size = self.target.linker.page_size
        arguments = [
            *("-shared", "-nostdlib", *_CODE_OPTIONS, "-s"),
            *("-Wl,--gc-sections", "-Wl,-z,now", "-Wl,-z,noexecstack", f"-Wl,-z,max-page-size={page_size}"),
            # -Wl would split a name that contains commas; -Xlinker doesn't.
            *("-Xlinker", "-soname", "-Xlinker", soname),
            *inputs,
            *self.driver.libraries,
            *("-o", str(output)),
        ]
        self._call(arguments, "Linking", local_cache=self.folder / "zig")

    def _call(self, arguments: Sequence[str], what: str, local_cache: Path) -> None:
        """Call the driver.

        Args:
            arguments: besides the driver's own.
            what: is done, as the beginning of a sentence.
            local_cache: the folder in which zig keeps what it makes.

        Raises:
            BuildError: the driver failed, or couldn't be started.
        """
        command = [*self.driver.command, *arguments]
        environment = {
            **os.environ,
            "ZIG_GLOBAL_CACHE_DIR": str(_zig_cache(self.folder / "zig-global")),
            "ZIG_LOCAL_CACHE_DIR": str(local_cache),
        }
        try:
            result = subprocess.run(
                command, cwd=self.folder, capture_output=True, text=True, env=environment, check=False
            )
        except OSError as error:
            raise BuildError(f"The linker {command[0]} couldn't be started: {error.strerror}.") from error
        if result.returncode != 0:
            raise BuildError(f"{what} for {self.target.name} failed:\n{result.stderr.strip()}")


def compile_ahead(target: Target) -> None:
    """Compile what is the same in all libraries for a target, which then takes no time when one is linked.

    Raises:
        BuildError: compiling failed.
        OptionError: the environment names a linker that doesn't exist.
    """
    with temporary_folder("pipeline-link-") as folder:
        for source in _LIBRARY_SOURCES:
            (folder / source.name).write_text(source.read_text(encoding="ascii"), encoding="ascii")
        _Linker(_driver(target), target, folder).compiled([source.name for source in _LIBRARY_SOURCES])


def names_linker() -> bool:
    """Return whether the environment names a linker, which takes zig's place for all targets."""
    return bool(os.environ.get(_LINKER_VARIABLE))


def _driver(target: Target, with_functions: bool = True) -> _Driver:
    named = os.environ.get(_LINKER_VARIABLE)
    if named:
        return _Driver(tuple(shlex.split(named)), _SYSTEM_LIBRARIES, self_contained=False)
    ndk = os.environ.get("ANDROID_NDK_HOME")
    if ndk and target.linker.ndk_target is not None:
        found = sorted(Path(ndk).glob("toolchains/llvm/prebuilt/*/bin/clang"))
        if not found:
            raise OptionError(f"ANDROID_NDK_HOME is {ndk}, which holds no toolchains/llvm/prebuilt/*/bin/clang.")
        return _Driver((str(found[0]), f"--target={target.linker.ndk_target}"), _SYSTEM_LIBRARIES, self_contained=False)
    zig = (*_zig(), "cc", "-target", target.linker.zig_target)
    libraries = ("-rtlib=compiler-rt",) if with_functions else ()
    return _Driver(zig, libraries, self_contained=with_functions, keeps_objects=True)


@functools.cache
def _zig() -> tuple[str, ...]:
    """Return the command that calls zig: its program, without Python's start, where the package has it as a file."""
    package = importlib.util.find_spec("ziglang")
    program = None if package is None or package.origin is None else Path(package.origin).with_name("zig")
    return (str(program),) if program is not None and program.is_file() else (sys.executable, "-m", "ziglang")


def _zig_cache(fallback: Path) -> Path:
    """Return the folder for zig's compiled runtimes: in the user's cache, or `fallback` if that isn't writable."""
    cache = platformdirs.user_cache_path("onnx-int8-pipeline") / "zig"
    try:
        if not cache.exists():
            _log.info("The first link for an architecture takes some seconds; zig's cache is %s.", cache)
            cache.mkdir(parents=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError as error:
        _log.info("%s isn't writable (%s), so each link takes some seconds.", cache, error.strerror)
        return fallback


def _undefined_symbols(library: Path) -> set[str]:
    """Return the functions that a library needs from other libraries than TVM's runtime."""
    with library.open("rb") as file:
        return {name for name in undefined_symbols(file) if not name.startswith(_RUNTIME_PREFIXES)}
