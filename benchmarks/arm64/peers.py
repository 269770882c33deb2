"""The peers' arm64 wheels: how each one's models are made, and what a machine has to look like for them.

Weights and scales of these models are random or made up: what is executed doesn't depend on them. Each engine reads a
model in the form that it runs best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.arm64 import mnn_model, ncnn_model, tflite_model
from benchmarks.arm64.counting import Emulator, executed
from benchmarks.arm64.instructions import by_class, disassemble
from benchmarks.peers import quantize_onnxruntime
from tests.runtime.sysroot import python_version, unpack_wheels

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Variant:
    """A way to run a network on an engine.

    Attributes:
        name: how it differs from the engine's other ones; empty if there is one only.
        precision: "int8" or "float32".
        make: writes the engine's model, given the ONNX file, samples and a folder, and returns its path.
    """

    name: str
    precision: str
    make: Callable[[Path, Sequence[Array], Path], Path]


@dataclass(frozen=True)
class Peer:
    """An engine.

    Attributes:
        name: for people.
        engine: in `run_peer.ENGINES`.
        wheels: what pip downloads for arm64.
        variants: the least of these counts.
    """

    name: str
    engine: str
    wheels: tuple[str, ...]
    variants: tuple[Variant, ...]


def _quantized(activations: Literal["QUInt8", "QInt8"]) -> Callable[[Path, Sequence[Array], Path], Path]:
    def make(model: Path, samples: Sequence[Array], folder: Path) -> Path:
        path = folder / f"onnxruntime.{activations}.onnx"
        return quantize_onnxruntime(model, samples, path, activations)

    return make


def _written(write: Callable[[Path, str, Path], Path]) -> tuple[Variant, ...]:
    """Return the variants of an engine whose models are written by a function of model, precision and folder."""

    def make(precision: str) -> Callable[[Path, Sequence[Array], Path], Path]:
        return lambda model, samples, folder: write(model, precision, folder)

    return tuple(Variant("", precision, make(precision)) for precision in ("int8", "float32"))


PEERS = (
    Peer(
        "TFLite",
        "tflite",
        ("ai-edge-litert==2.3.0", "backports.strenum", "flatbuffers", "protobuf", "tqdm"),
        _written(tflite_model.write),
    ),
    Peer("MNN", "mnn", ("MNN==3.6.1",), _written(mnn_model.write)),
    Peer("ncnn", "ncnn", ("ncnn==1.0.20261020",), _written(ncnn_model.write)),
    Peer(
        "ONNX Runtime",
        "onnxruntime",
        ("onnxruntime==1.32.0", "flatbuffers", "packaging", "protobuf"),
        (
            Variant("u8s8", "int8", _quantized("QUInt8")),
            Variant("s8s8", "int8", _quantized("QInt8")),
            Variant("", "float32", lambda model, samples, folder: model),
        ),
    ),
)

_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_DOT_FEATURES = f"{_FEATURES} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"

CORES: Mapping[str, tuple[str, str]] = {
    "cortex-a53": ("0xd03", _FEATURES),
    "cortex-a76": ("0xd0b", _DOT_FEATURES),
    "max": ("0xd47", f"{_DOT_FEATURES} i8mm bf16"),
}
"""What /proc/cpuinfo says of QEMU's CPUs: the part (of Arm), and the features. `max` passes for a Cortex-A710."""


def machine_root(sysroot: Path, cpu: str, folder: Path) -> Path:
    """Make a system's root with the files by which programs find out what the CPU is, and return it."""
    root = folder / "machine"
    for entry in sysroot.iterdir():
        _link(root / entry.name, entry)
    part, features = CORES[cpu.partition(",")[0]]
    lines = {
        **{"processor": "0", "BogoMIPS": "50.00", "Features": features, "CPU implementer": "0x41"},
        **{"CPU architecture": "8", "CPU variant": "0x1", "CPU part": part, "CPU revision": "0"},
    }
    files = {"proc/cpuinfo": "".join(f"{key}\t: {value}\n" for key, value in lines.items())}
    files |= {f"sys/devices/system/cpu/{name}": "0\n" for name in ("possible", "present", "online", "kernel_max")}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return root


def _link(path: Path, to: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(to.resolve())


def unpack(peer: Peer, sysroot: Path, cache: Path) -> Path:
    """Return the folder with a peer's arm64 packages; download them if there is none."""
    folder = cache / peer.engine
    if not folder.exists():
        unpack_wheels(peer.wheels, python_version(sysroot), folder)
    return folder


def count_peer(peer: Peer, emulator: Emulator, cpu: str, model: Path, sample: Array) -> dict[str, int]:
    """Return how many instructions of each class an engine executes for one inference."""
    inputs = model.with_suffix(".input.npy")
    np.save(inputs, sample)
    segments = emulator.count(cpu, "benchmarks.arm64.run_peer", peer.engine, str(model), str(inputs))
    counts = executed(segment.runs for segment in segments)
    return by_class(counts, disassemble(counts))
