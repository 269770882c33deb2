"""Runs a library, in a process of its own: `python -m tests.runtime.run_library LIBRARY INPUTS.npz OUTPUTS.npz`.

Both archives hold the tensors of several runs, each as "run/name".
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.runtime.local import Runner

Array = npt.NDArray[Any]


def read_batches(path: Path) -> list[dict[str, Array]]:
    """Return the tensors of each run by name."""
    batches: dict[int, dict[str, Array]] = {}
    with np.load(path) as archive:
        for key in archive.files:
            run, _, name = key.partition("/")
            batches.setdefault(int(run), {})[name] = archive[key]
    return [batches[run] for run in sorted(batches)]


def main(library: str, inputs: str, outputs: str) -> None:
    runner = Runner(Path(library), num_threads=1)
    results = [runner.run(feeds) for feeds in read_batches(Path(inputs))]
    np.savez(outputs, **{f"{i}/{name}": value for i, result in enumerate(results) for name, value in result.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
