"""Runs a library of ours under emulation, with marks: around one run, and wherever a kernel is called.

    python -m benchmarks.arm64.run_library LIBRARY INPUTS.npz OUTPUTS.npz KERNELS.json

The last file has the addresses of the library's functions, from its beginning, by name; where they are in memory is
added to it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.arm64.marks import mark, mark_calls_of
from pipeline.runtime.local import Runner

WARM_UP = 2


def loaded_range(library: Path) -> tuple[int, int]:
    """Return where a library that was loaded begins and ends in memory."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    ranges = [line[0].split("-") for line in lines if line[-1] == str(library)]
    return int(ranges[0][0], 16), int(ranges[-1][1], 16)


def main(library: str, inputs: str, outputs: str, kernels: str) -> None:
    """Run the library."""
    runner = Runner(Path(library), num_threads=1)
    begin, end = loaded_range(Path(library))
    addresses = {name: begin + offset for name, offset in json.loads(Path(kernels).read_bytes()).items()}
    for address in addresses.values():
        mark_calls_of(address)
    Path(kernels).write_text(json.dumps({"begin": begin, "end": end, "kernels": addresses}), encoding="utf-8")
    with np.load(inputs) as archive:
        feeds = dict(archive)
    for _ in range(WARM_UP):
        runner.run(feeds)
    mark()
    results = runner.run(feeds)
    mark()
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
