"""Runs kernels of a library in a process of its own: `python -m tests.kernels.run_kernels LIBRARY IN.npz OUT.npz`.

IN.npz holds the arguments of each function as "function/position", the last one to be overwritten with the result.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm


def main(library: str, inputs: str, outputs: str) -> None:
    """Call each function once."""
    module = tvm.runtime.load_module(library)
    results = {}
    with np.load(inputs) as archive:
        for function in sorted({key.partition("/")[0] for key in archive.files}):
            count = sum(key.startswith(f"{function}/") for key in archive.files)
            arguments = [tvm.runtime.tensor(archive[f"{function}/{i}"]) for i in range(count)]
            module[function](*arguments)
            results[function] = arguments[-1].numpy()
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
