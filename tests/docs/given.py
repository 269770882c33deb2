"""The files that the listings of the docs expect: models, samples and pictures.

As a script, `given.py README.md HEADING`, it writes them to the working folder and runs the listings below a heading
there. It is run in an environment in which only the wheel is installed, so it doesn't import the tests, and Pillow only
for pictures.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 3, 8, 8)
PICTURES = 40


def write_models(folder: Path) -> None:
    """Write `model.onnx`, `open.onnx` without its shape, and `quantized.onnx`."""
    _write_model(folder / "model.onnx", SHAPE)
    _write_model(folder / "open.onnx", ("batch", 3, "height", "width"))
    _write_model(folder / "quantized.onnx", SHAPE, quantized=True)


def write_samples(folder: Path) -> None:
    """Write `samples/`, of one sample, and `x.npz`."""
    value = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    (folder / "samples").mkdir()
    np.save(folder / "samples" / "0.npy", value)
    np.savez(folder / "x.npz", x=value)


def write_pictures(folder: Path) -> None:
    """Write `pictures/`."""
    from PIL import Image

    (folder / "pictures").mkdir()
    for i, pixels in enumerate(np.random.default_rng(2).integers(0, 256, (PICTURES, 16, 20, 3), "uint8")):
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")


def _write_model(path: Path, shape: tuple[int | str, ...], quantized: bool = False) -> None:
    random = np.random.default_rng(0)
    weights = {"filters": random.standard_normal((8, 3, 3, 3)), "weights": random.standard_normal((8, 5))}
    constants = [numpy_helper.from_array(v.astype("float32"), n) for n, v in weights.items()]
    nodes = []
    if quantized:
        constants += [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["quantized"]),
            helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["rounded"]),
        ]
    nodes += [
        helper.make_node("Conv", ["rounded" if quantized else "x", "filters"], ["sums"], "/features/conv/Conv"),
        helper.make_node("Relu", ["sums"], ["activations"], "/features/act/Relu"),
        helper.make_node("GlobalAveragePool", ["activations"], ["means"], "/pool/GlobalAveragePool"),
        helper.make_node("Flatten", ["means"], ["rows"], "/flatten/Flatten"),
        helper.make_node("MatMul", ["rows", "weights"], ["scores"], "/head/fc/MatMul"),
    ]
    ends = [("x", shape), ("scores", (shape[0], 5))]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in ends]
    graph = helper.make_graph(nodes, "graph", infos[:1], infos[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def run_listings(document: Path, heading: str) -> None:
    """Run the listings below a heading as they stand, each in a shell or a Python of its own.

    Raises:
        CalledProcessError: one failed.
    """
    text = document.read_text(encoding="utf-8")
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    listings = re.findall(r"^```(\w*)\n(.*?)^```$", section[1] if section else "", re.MULTILINE | re.DOTALL)
    if not listings:
        raise SystemExit(f"{document} has no listings below {heading!r}.")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for language, lines in listings:
        command = [sys.executable, "-c", lines] if language == "python" else ["bash", "-euxc", lines]
        subprocess.run(command, check=True, env=os.environ | {"PATH": path})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("document", type=Path)
    parser.add_argument("heading")
    arguments = parser.parse_args()
    write_models(Path())
    write_samples(Path())
    if importlib.util.find_spec("PIL"):
        write_pictures(Path())
    run_listings(arguments.document.absolute(), arguments.heading)
