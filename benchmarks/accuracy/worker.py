"""Quantizes or judges one model, in a process of its own; prints what it found as JSON, on the last line.

    python -m benchmarks.accuracy.worker quantize TASK METHOD FOLDER
    python -m benchmarks.accuracy.worker judge TASK METHOD FOLDER

FOLDER is the task's: see `benchmarks.accuracy.__main__.write_task`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.accuracy.methods import ENGINES, METHODS, SUFFIXES, StoredSamples, onnxruntime_engine, quantizer
from benchmarks.accuracy.metrics import SQNR
from benchmarks.accuracy.tasks import TASKS
from benchmarks.engine import peak_mib


def quantize(_task: str, method: str, folder: Path) -> dict[str, float]:
    """Write an int8 model, and return what that took: seconds, of processors as well, and memory."""
    path = _int8_file(method, folder)
    work, write = quantizer(METHODS[method], folder / "model.onnx", folder / "calibration", path)
    start, processor_start = time.perf_counter(), time.process_time()
    quantized = work()
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    found = {"seconds": seconds, "processor_seconds": processor_seconds, "peak_mib": peak_mib()}
    write(quantized)
    return found


def judge(task: str, method: str, folder: Path) -> dict[str, float]:
    """Return an int8 model's metric and its distance from float, and the float model's metric, on other samples."""
    metric = TASKS[task].metric()
    run_float = onnxruntime_engine(folder / "model.onnx")
    run = ENGINES[METHODS[method].engine](_int8_file(method, folder))
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    own, of_float, distance = metric.start(), metric.start(), SQNR.start()
    for feeds, label in zip(StoredSamples(folder / "evaluation"), labels, strict=True):
        expected = run_float(feeds)
        named = dict(zip(expected, run(feeds).values(), strict=True))
        own.update(feeds, label, expected, named)
        distance.update(feeds, label, expected, named)
        of_float.update(feeds, label, expected, expected)
    return {
        "metric": own.value,
        "sqnr_db": distance.value,
        "float": of_float.value if metric.of_float is None else metric.of_float,
    }


def _int8_file(method: str, folder: Path) -> Path:
    return folder / f"{method}{SUFFIXES[METHODS[method].engine]}"


if __name__ == "__main__":
    command, task, method, folder = sys.argv[1:]
    found = {"quantize": quantize, "judge": judge}[command](task, method, Path(folder))
    print(json.dumps(found))
