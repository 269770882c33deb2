"""Runs a peer's model under emulation, with marks around one run; imports nothing but that peer.

python -m benchmarks.arm64.run_peer ENGINE MODEL INPUT.npy
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.arm64.marks import mark

WARM_UP = 2

Run = Callable[[], object]


def onnxruntime(path: Path, sample: np.ndarray) -> Run:
    """ONNX Runtime, all graph optimizations on, which is its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: sample}
    return lambda: session.run(None, feeds)


ENGINES: dict[str, Callable[[Path, np.ndarray], Run]] = {"onnxruntime": onnxruntime}


def main(engine: str, model: str, sample: str) -> None:
    """Run the model."""
    run = ENGINES[engine](Path(model), np.load(sample))
    for _ in range(WARM_UP):
        run()
    mark()
    run()
    mark()


if __name__ == "__main__":
    main(*sys.argv[1:])
