"""Links a library with nothing but pip packages: zig's linker, no C library, the same bytes for the same input."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
from tvm import relax

from pipeline.artifact import METADATA_SECTION
from pipeline.errors import BuildError, OptionError
from pipeline.targets import Target

_log = logging.getLogger(__name__)


def check_writable(path: Path) -> None:
    """Refuse an output path that can't be written, before the work begins.

    Raises:
        OptionError: the folder doesn't exist, isn't a folder, or isn't writable.
    """
    folder = path.parent
    if not folder.is_dir():
        raise OptionError(f"The folder {folder} of the output {path} doesn't exist.")
    if not os.access(folder, os.W_OK):
        raise OptionError(f"The folder {folder} of the output {path} isn't writable.")
    if path.is_dir():
        raise OptionError(f"The output {path} is a folder; give a file.")


def link(executable: relax.VMExecutable, target: Target, metadata: bytes, path: Path) -> None:
    """Write an executable as a shared library that needs no other.

    TVM's runtime and libm functions stay undefined; the process that loads the library has them.

    Args:
        executable: code and constants.
        target: says what to link for.
        metadata: JSON, put into `METADATA_SECTION`.
        path: the library; it appears there complete or not at all.

    Raises:
        BuildError: the linker failed; its own message is included.
        OptionError: the output can't be written.
    """
    check_writable(path)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "metadata.c"
        source.write_text(_metadata_source(metadata), encoding="ascii")
        linked = Path(folder) / path.name

        def compile_and_link(output: str, objects: Sequence[str], **_options: Any) -> None:
            _run_linker([*objects, str(source)], Path(output), target, path.name)

        compile_and_link.output_format = "so"  # type: ignore[attr-defined]
        executable.export_library(str(linked), fcompile=compile_and_link, workspace_dir=folder)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.write_bytes(linked.read_bytes())
            beside.chmod(0o755)
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise OptionError(f"{path} can't be written: {error.strerror}.") from error


def linker_command(target: Target) -> list[str]:
    """Return the compiler driver for a target: the NDK's clang if ANDROID_NDK_HOME is set, or zig's."""
    ndk = os.environ.get("ANDROID_NDK_HOME")
    if ndk and target.triple.endswith("-android"):
        found = sorted(Path(ndk).glob("toolchains/llvm/prebuilt/*/bin/clang"))
        if not found:
            raise OptionError(f"ANDROID_NDK_HOME is {ndk}, which holds no toolchains/llvm/prebuilt/*/bin/clang.")
        return [str(found[0]), f"--target={target.triple}24"]
    return [sys.executable, "-m", "ziglang", "cc", "-target", target.linker]


def _run_linker(inputs: Sequence[str], output: Path, target: Target, soname: str) -> None:
    flags = ["-shared", "-nostdlib", "-fPIC", "-O2", "-g0", "-fno-sanitize=all", "-s"]
    options = ["-z", f"max-page-size={target.page_size}", "-z", "noexecstack", "-z", "now", "-soname", soname]
    command = [*linker_command(target), *flags, *(f"-Wl,{o}" for o in _joined(options)), *inputs, "-o", str(output)]
    cache = platformdirs.user_cache_path("onnx-int8-pipeline") / "zig"
    if not cache.exists():
        _log.info("The first link prepares zig's cache in %s; that takes some seconds once.", cache)
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(output.parent / "zig")}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise BuildError(f"The linker {command[0]} couldn't be started: {error}.") from error
    if result.returncode != 0:
        raise BuildError(f"Linking for {target.name} failed:\n{result.stderr.strip()}")


def _joined(options: Sequence[str]) -> list[str]:
    """Return linker options with their values attached, as `-Wl` wants them."""
    joined: list[str] = []
    for option in options:
        if option.startswith("-"):
            joined.append(option)
        else:
            joined[-1] += f",{option}"
    return joined


def _metadata_source(metadata: bytes) -> str:
    values = ",".join(str(b) for b in metadata)
    attributes = f'__attribute__((used, retain, section("{METADATA_SECTION}")))'
    return f"{attributes} const unsigned char pipeline_metadata[] = {{{values}}};\n"
