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


def tflite(path: Path, sample: np.ndarray) -> Run:
    """TFLite with XNNPACK, which is its default."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    spec, output = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    image = np.ascontiguousarray(sample.transpose(0, 2, 3, 1))

    def run() -> object:
        interpreter.set_tensor(spec, image)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def ncnn(path: Path, sample: np.ndarray) -> Run:
    """ncnn, float models in float32, as the others."""
    import ncnn

    net = ncnn.Net()
    options = net.opt
    options.num_threads = 1
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    net.opt = options
    assert net.load_param(str(path)) == 0
    assert net.load_model(str(path.with_suffix(".bin"))) == 0
    *_, output = net.output_names()

    def run() -> object:
        with net.create_extractor() as extractor:
            extractor.input("x", ncnn.Mat(sample[0]))
            return np.array(extractor.extract(output)[1])

    return run


def mnn(path: Path, sample: np.ndarray) -> Run:
    """MNN, float models in float32, as the others."""
    import MNN

    interpreter = MNN.Interpreter(str(path))
    session = interpreter.createSession({"numThread": 1, "backend": "CPU", "precision": "high"})
    layout = (MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe)
    image = MNN.Tensor(sample.shape, layout[0], sample, layout[1])
    target, result = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)
    shape = result.getShape()
    output = MNN.Tensor(shape, layout[0], np.zeros(shape, "float32"), layout[1])

    def run() -> object:
        target.copyFrom(image)
        interpreter.runSession(session)
        return result.copyToHostTensor(output)

    return run


ENGINES: dict[str, Callable[[Path, np.ndarray], Run]] = {
    "onnxruntime": onnxruntime,
    "tflite": tflite,
    "ncnn": ncnn,
    "mnn": mnn,
}


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
