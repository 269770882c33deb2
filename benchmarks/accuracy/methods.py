"""Ways to make an int8 model, ours and the peers', and how to run what they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers import quantize_onnxruntime, quantize_openvino

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], dict[str, Array]]

STRIDE = 10
"""So many samples' tensors ONNX Runtime may keep at once for its histograms; with 100 it takes over 6 GB."""


class StoredSamples(Sequence[dict[str, Array]]):
    """Samples in a folder, each read when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.glob("*.npz"))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        """Return one sample, by input name."""
        with np.load(self._files[index], allow_pickle=False) as archive:
            return dict(archive)


@dataclass(frozen=True)
class Method:
    """A way to make an int8 model.

    Attributes:
        title: what tables call it.
        engine: which runs what it makes; a key of `ENGINES`.
        options: of the quantizer.
    """

    title: str
    engine: str
    options: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "ort-minmax": Method("ONNX Runtime MinMax", "onnxruntime", {"method": "MinMax"}),
    "ort-percentile": Method("ONNX Runtime Percentile", "onnxruntime", {"method": "Percentile", "stride": STRIDE}),
    "ort-entropy": Method("ONNX Runtime Entropy", "onnxruntime", {"method": "Entropy", "stride": STRIDE}),
    "nncf": Method("NNCF", "openvino"),
    "nncf-mixed": Method("NNCF mixed", "openvino", {"preset": "mixed"}),
    "nncf-accurate": Method("NNCF accurate bias correction", "openvino", {"fast_bias_correction": False}),
    "ours": Method("ours", "ours"),
    "ours-best": Method("ours, effort best", "ours", {"effort": "best"}),
    "ours-adaround": Method("ours, adaround", "ours", {"adaround": True}),
    "ours-16": Method("ours, 16 bits", "ours", {"activation_bits": 16}),
    "ours-4": Method("ours, 4-bit weights", "ours", {"weight_bits": 4}),
    "ours-none": Method("ours, effort none", "ours", {"effort": "none"}),
    "ours-none-kl": Method("ours, effort none, kl", "ours", {"effort": "none", "algorithm": "kl"}),
    "ours-none-abs-max": Method("ours, effort none, abs_max", "ours", {"effort": "none", "algorithm": "abs_max"}),
    "ours-none-mse": Method("ours, effort none, mse", "ours", {"effort": "none", "algorithm": "mse"}),
    "ours-none-mse-weights": Method(
        "ours, effort none, mse for weights", "ours", {"effort": "none", "weight_algorithm": "mse"}
    ),
}
"""Every method by name."""

SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml", "ours": ".so"}


def quantizer(
    method: Method, model: Path, samples: Path, path: Path
) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Return what quantizes a model, and what makes a file of the result where that is a step of its own.

    Imports are done on return, so that they don't count as the quantizer's time.

    Args:
        method: which quantizer, and its options.
        model: the float model.
        samples: the folder of samples to calibrate with.
        path: the file to write.
    """
    if method.engine == "ours":
        import pipeline

        def quantize() -> Any:
            return pipeline.quantize(pipeline.load(model), samples, **method.options)

        return quantize, lambda quantized: quantized.build("host", path)
    stored = StoredSamples(samples)
    if method.engine == "onnxruntime":
        import onnxruntime.quantization

        assert onnxruntime.quantization
        return lambda: quantize_onnxruntime(model, stored, path, **method.options), lambda _: None
    import nncf

    options = dict(method.options)
    if "preset" in options:
        options["preset"] = nncf.QuantizationPreset(options["preset"])
    return lambda: quantize_openvino(model, stored, path, **options), lambda _: None


def onnxruntime_engine(path: Path) -> Run:
    """ONNX Runtime, all graph optimizations on, which is its default."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))


def openvino_engine(path: Path) -> Run:
    """OpenVINO; what isn't int8 in float32, as with the others."""
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feeds: {output.any_name: value for output, value in compiled(dict(feeds)).items()}


def our_engine(path: Path) -> Run:
    """Our library."""
    from pipeline.runtime.local import Runner

    return Runner(path).run


ENGINES: dict[str, Callable[[Path], Run]] = {
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
    "ours": our_engine,
}
"""What runs a file, by the engine's name."""
