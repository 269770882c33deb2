"""Runs a library once, in a process of its own: `python -m tests.deploy.run_library LIBRARY INPUTS.npz OUTPUTS.npz`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pipeline.deploy.runner import Runner


def main(library: str, inputs: str, outputs: str) -> None:
    with np.load(inputs) as feeds:
        results = Runner(Path(library), num_threads=1).run(dict(feeds))
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
