"""Runs kernels of libraries in a process of its own: `python -m tests.kernels.run_kernels`.

Each line of the standard input names a library, an archive of arguments and one to be written, with tabs between them;
when that is done, the answer is a line "done". The library has functions kernel0, kernel1, ..., the arguments are named
"function/position", the last one of each function to be overwritten with the result, which is named "function".
All tensors end right before memory without access, where their sizes allow it.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import tvm

from tests.kernels.guard_pages import place


def run(library: str, inputs: str, outputs: str) -> None:
    """Call each function once."""
    module = tvm.runtime.load_module(library)
    results = {}
    with np.load(inputs) as archive:
        for function, count in Counter(key.partition("/")[0] for key in archive.files).items():
            arguments = [place(archive[f"{function}/{i}"]) for i in range(count)]
            module[f"kernel{function}"](*(tvm.runtime.from_dlpack(a) for a in arguments))
            results[function] = arguments[-1]
    np.savez(outputs, **results)


if __name__ == "__main__":
    for line in sys.stdin:
        run(*line.rstrip("\n").split("\t"))
        print("done", flush=True)
