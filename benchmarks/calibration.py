"""How long calibration takes, and how much memory, beside the peers: each in a process of its own, in the same run.

    python -m benchmarks.calibration [mobilenet_v1] [--samples 100] [--more 1000] [--without METHOD] [--json FILE]

Seconds are those from the model's file to the quantized model, without the time in which Python imports packages; for
builds, those from the file to the library, and all that a build checks. Memory is a process's largest, packages
included. Samples are made when they are asked for, so that they don't count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.engine import peak_mib
from benchmarks.machine import cpu_name
from benchmarks.networks import NETWORKS

Array = npt.NDArray[Any]

PACKAGES = ("onnx-int8-pipeline", "apache-tvm", "numpy", "nncf", "openvino", "onnxruntime")


class Samples(Sequence[Array]):
    """Random pictures, each made when it is asked for: smooth, so that activations are as they are for real ones."""

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        self._shape, self._count = shape, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        random = np.random.default_rng(index)
        *channels, height, width = self._shape
        coarse = random.standard_normal((*channels, -(-height // 8), -(-width // 8)))
        smooth = coarse.repeat(8, axis=-2).repeat(8, axis=-1)[..., :height, :width]
        return (smooth + 0.1 * random.standard_normal(self._shape)).astype("float32")


def ours(model: Path, samples: Samples, folder: Path, **options: Any) -> Callable[[], object]:
    """Return what calibrates with this package."""
    import pipeline

    def generate() -> Iterator[Array]:
        return iter(samples)

    pipeline.load, pipeline.quantize  # noqa: B018 - imports what they need
    return lambda: pipeline.quantize(pipeline.load(model), generate, algorithm="kl", **options)


def built(model: Path, samples: Samples, folder: Path, **options: Any) -> Callable[[], object]:
    """Return what does all that `pipeline build` does."""
    from pipeline.workflow import build

    files = folder / "samples"
    files.mkdir()
    for number, sample in enumerate(samples):
        np.save(files / f"{number:04}.npy", sample)
    return lambda: build(model, files, output=folder / "out", algorithm="kl", **options)


def nncf(model: Path, samples: Samples, folder: Path) -> Callable[[], object]:
    """Return what calibrates with NNCF, with its fast bias correction."""
    import nncf
    import openvino

    from benchmarks.peers import quantize_openvino

    del nncf, openvino
    return lambda: quantize_openvino(model, samples, folder / "model.xml")


def onnxruntime(model: Path, samples: Samples, folder: Path, method: str) -> Callable[[], object]:
    """Return what calibrates with ONNX Runtime."""
    import onnxruntime.quantization

    from benchmarks.peers import quantize_onnxruntime

    del onnxruntime
    return lambda: quantize_onnxruntime(model, samples, folder / "model.onnx", method=method)


METHODS: Mapping[str, Callable[[Path, Samples, Path], Callable[[], object]]] = {
    "kl": lambda *given: ours(*given, effort="none"),
    "kl, --effort fast": lambda *given: ours(*given, effort="fast"),
    "kl, --effort balanced": lambda *given: ours(*given, effort="balanced"),
    "NNCF, fast bias correction": nncf,
    "ONNX Runtime, entropy": lambda *given: onnxruntime(*given, method="Entropy"),
    "whole build, --effort fast": lambda *given: built(*given, effort="fast"),
    "whole build, --effort balanced": lambda *given: built(*given, effort="balanced"),
}
"""Return what is measured, imports done, by name."""

OURS = "kl, --effort fast"
"""What is measured with more samples, too."""


def measured(method: str, network: str, model: Path, count: int) -> dict[str, float]:
    """Return the seconds and peak MiB of a method, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        run = METHODS[method](model, Samples(NETWORKS[network].shape, count), Path(folder))
        start, cpu = time.perf_counter(), time.process_time()
        run()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@click.command()
@click.argument("network", type=click.Choice(sorted(NETWORKS)), default="mobilenet_v1")
@click.option("--samples", "count", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--more", type=click.IntRange(min=1), default=1000, show_default=True, help=f"Samples of {OURS}, too.")
@click.option("--without", type=click.Choice(list(METHODS)), multiple=True, help="Leave a method out.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
@click.option("--child", type=(click.Choice(list(METHODS)), click.Path(path_type=Path)), hidden=True)
def main(
    network: str,
    count: int,
    more: int,
    without: tuple[str, ...],
    json_path: Path | None,
    child: tuple[str, Path] | None,
) -> None:
    """Measure the calibration of NETWORK."""
    if child is not None:
        click.echo(json.dumps(measured(child[0], network, child[1], count)))
        return
    machine = {"cpu": cpu_name(), "python": sys.version.split()[0], **{name: _version(name) for name in PACKAGES}}
    table = Table("method", "samples", "s", "CPU s", "peak, MiB")
    table.caption = ", ".join(f"{k} {v}" for k, v in machine.items())
    results = []
    with tempfile.TemporaryDirectory() as folder:
        model = NETWORKS[network].write(Path(folder) / "model.onnx")
        chosen = [(method, count) for method in METHODS if method not in without]
        for method, number in [*chosen, *([(OURS, more)] if OURS not in without else [])]:
            command = [sys.executable, "-m", "benchmarks.calibration", network, "--samples", str(number)]
            command += ["--child", method, str(model)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            results.append({"method": method, "samples": number, **found})
            cells = (f"{found[key]:.1f}" for key in ("seconds", "cpu_seconds"))
            table.add_row(method, str(number), *cells, f"{found['peak_mib']:.0f}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if json_path is not None:
        content = {"network": network, "machine": machine, "results": results}
        json_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
