"""One engine with one model, in a process of its own: runs it when it is told to, over standard input and output.

    python -m benchmarks.engine ENGINE MODEL THREADS

It prints a line when the first result is there. For each number that it then reads it runs the model as often, and
prints the times in milliseconds and the process's peak memory in MiB. It imports nothing but its own engine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Run = Callable[[], object]


def ours(path: Path, threads: int) -> Run:
    """Our library, in the runner that needs no compiler."""
    from pipeline.runtime.local import Runner

    runner = Runner(path, num_threads=threads)
    feeds = {spec.name: _sample(spec.shape) for spec in runner.inputs}
    return lambda: runner.run(feeds)


def onnxruntime(path: Path, threads: int) -> Run:
    """ONNX Runtime, all graph optimizations on, which is its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {i.name: _sample(i.shape) for i in session.get_inputs()}
    return lambda: session.run(None, feeds)


def openvino(path: Path, threads: int) -> Run:
    """OpenVINO, for latency; float models in float32, as the others."""
    import openvino

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(str(path), "CPU", config).create_infer_request()
    sample = _sample(request.get_input_tensor(0).shape)
    request.set_input_tensor(openvino.Tensor(sample, shared_memory=True))
    return request.infer


ENGINES: dict[str, Callable[[Path, int], Run]] = {"ours": ours, "onnxruntime": onnxruntime, "openvino": openvino}


def _sample(shape: object) -> np.ndarray:
    """Return noise, aligned to 64 bytes: all engines can then use it where it is."""
    noise = np.random.default_rng(0).standard_normal(tuple(shape)).astype("float32")  # type: ignore[arg-type, call-overload]
    memory = np.empty(noise.nbytes + 64, "uint8")
    start = -memory.ctypes.data % 64
    aligned: np.ndarray = memory[start : start + noise.nbytes].view("float32").reshape(noise.shape)
    aligned[...] = noise
    return aligned


def peak_mib() -> float:
    """Return the most memory that this process has had, in MiB."""
    # Not getrusage: its figure is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Serve one parent process."""
    engine, model, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    run = ENGINES[engine](model, threads)
    run()
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps({"milliseconds": times, "peak_mib": peak_mib()}), flush=True)


if __name__ == "__main__":
    main()
