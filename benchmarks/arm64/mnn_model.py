"""Writes MNN's models, with its own converter and quantizer.

    python -m benchmarks.arm64.mnn_model MODEL.onnx int8|float32 PATH.mnn

The module that holds them is called directly: what starts the tools by name installs packages for telemetry.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

_IMAGES, _SIZE = 4, 224


def write(model: Path, precision: str, folder: Path) -> Path:
    """Write an ONNX file's model and return the file's path; in a process of its own, as the tools print a lot."""
    path = folder / f"{precision}.mnn"
    command = [sys.executable, "-m", "benchmarks.arm64.mnn_model", str(model), precision, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def main(model: str, precision: str, path: str) -> None:
    """Convert a model, and quantize it with pictures of noise."""
    import _tools
    from PIL import Image

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        converted = path if precision == "float32" else str(folder / "float32.mnn")
        _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", model, "--MNNModel", converted])
        if precision == "float32":
            return
        pictures = folder / "pictures"
        pictures.mkdir()
        random = np.random.default_rng(0)
        for i in range(_IMAGES):
            Image.fromarray(random.integers(0, 256, (_SIZE, _SIZE, 3), "uint8")).save(pictures / f"{i}.png")
        configuration = {
            **{"path": f"{pictures}/", "input_type": "image", "used_image_num": _IMAGES, "batch_size": 1},
            **{"format": "RGB", "width": _SIZE, "height": _SIZE, "mean": [128] * 3, "normal": [0.01] * 3},
            **{"quant_bits": 8, "feature_quantize_method": "EMA", "weight_quantize_method": "MAX_ABS"},
        }
        (folder / "configuration.json").write_text(json.dumps(configuration), encoding="ascii")
        _tools.mnnquant(["mnnquant", converted, path, str(folder / "configuration.json")])


if __name__ == "__main__":
    main(*sys.argv[1:])
