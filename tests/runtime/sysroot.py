"""Makes a folder with a Linux arm64 Python that runs under `qemu-aarch64`, with what a library needs to run.

    python -m tests.runtime.sysroot DIR

Debian packages come through apt-get with a private configuration, so that the system's architectures and package lists
stay as they are; wheels come through pip, in the versions that are installed here. About 130 MB are downloaded. Needs
apt-get and dpkg-deb, no root. Then the tests for arm64 run with PIPELINE_AARCH64_SYSROOT=DIR.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

DEBIAN_PACKAGES = ("python3", "libstdc++6")

WHEELS = ("apache-tvm", "apache-tvm-ffi", "ml_dtypes", "msgspec", "numpy")
"""Needed by the runner; their own requirements are below."""

PURE_WHEELS = ("typing-extensions", "cloudpickle", "psutil")

PLATFORMS = (*(f"manylinux_2_{minor}_aarch64" for minor in (36, *range(28, 16, -1))), "manylinux2014_aarch64")


def make_sysroot(directory: Path) -> None:
    """Fill `directory`, which must not exist; nothing is left there when something fails."""
    if directory.exists():
        raise SystemExit(f"{directory} exists already; remove it to make it anew.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sysroot-", dir=directory.parent) as name:
        root = Path(name) / "root"
        root.mkdir()
        for package in _download_debian_packages(Path(name) / "apt"):
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
        requirements = [f"{package}=={version(package)}" for package in (*WHEELS, *PURE_WHEELS)]
        unpack_wheels(requirements, python_version(root), root / "site-packages")
        root.rename(directory)


def python_path(sysroot: Path) -> Path:
    """Return the arm64 interpreter."""
    return next(sysroot.glob("usr/bin/python3.[0-9]*[0-9]"))


def python_version(sysroot: Path) -> str:
    """Return the interpreter's version, such as "3.11"."""
    return python_path(sysroot).name.removeprefix("python")


def _download_debian_packages(folder: Path) -> list[Path]:
    for needed in ("state/lists/partial", "cache/archives/partial"):
        (folder / needed).mkdir(parents=True)
    (folder / "status").touch()
    configuration = folder / "apt.conf"
    configuration.write_text(
        f"""
        APT::Architecture "arm64";
        APT::Architectures {{ "arm64"; }};
        APT::Sandbox::User "";
        Debug::NoLocking "true";
        Dir::State "{folder}/state";
        Dir::State::status "{folder}/status";
        Dir::Cache "{folder}/cache";
        """,
        encoding="ascii",
    )
    apt = ["apt-get", "-q", "-c", str(configuration)]
    subprocess.run([*apt, "update"], check=True, stdout=subprocess.DEVNULL)
    install = ["install", "-y", "--no-install-recommends", "--download-only", *DEBIAN_PACKAGES]
    subprocess.run([*apt, *install], check=True, stdout=subprocess.DEVNULL)
    return sorted((folder / "cache/archives").glob("*.deb"))


def unpack_wheels(requirements: Sequence[str], python: str, folder: Path) -> None:
    """Unpack arm64 wheels, without what these require.

    Args:
        requirements: as pip takes them.
        python: version of the interpreter.
        folder: gets the packages.
    """
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    with tempfile.TemporaryDirectory() as wheels:
        python_option = f"--python-version={python}"
        subprocess.run([*command, "--dest", wheels, *platforms, python_option, *requirements], check=True)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)


def main() -> None:
    """Make the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory.resolve()
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} isn't installed; the folder can only be made on Debian and its derivatives.")
    make_sysroot(directory)


if __name__ == "__main__":
    main()
