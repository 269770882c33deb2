"""ONNX in, int8 shared libraries out: annotate, calibrate, realize and compile with TVM.

    import pipeline

    model = pipeline.load("model.onnx")
    quantized = pipeline.quantize(model, samples)
    quantized.build("host", "model.host.so")
    outputs = pipeline.Runner("model.host.so").run({"x": x})

`build` does all that `pipeline build` does on the command line, and returns its report:

    report = pipeline.build("model.onnx", samples, targets=["host", "android-arm64"], output="out")

The stages can be called one by one, each with the result of the one before: `import_model`, `annotate`, `calibrate`,
`realize`, `compile_program`. Names are imported when they are first used, so that running a library doesn't load the
compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # For type checkers; at run time, `__getattr__` imports what is used.
    __version__: str

    from pipeline.api import Quantized as Quantized
    from pipeline.api import load as load
    from pipeline.api import quantize as quantize
    from pipeline.compiler.build import compile_program as compile_program
    from pipeline.config.options import AnnotateOptions as AnnotateOptions
    from pipeline.config.options import CalibrateOptions as CalibrateOptions
    from pipeline.config.options import ImageOptions as ImageOptions
    from pipeline.diagnosis import compare as compare
    from pipeline.diagnosis import sensitivity as sensitivity
    from pipeline.errors import PipelineError as PipelineError
    from pipeline.importer import import_model as import_model
    from pipeline.ir.program import Program as Program
    from pipeline.library.metadata import read_metadata as read_metadata
    from pipeline.profiling import Profile as Profile
    from pipeline.profiling import profile as profile
    from pipeline.quantization.annotate import annotate as annotate
    from pipeline.quantization.annotation import Annotation as Annotation
    from pipeline.quantization.calibrate import calibrate as calibrate
    from pipeline.quantization.realize import realize as realize
    from pipeline.quantization.table import CalibrationTable as CalibrationTable
    from pipeline.report.build_report import BuildReport as BuildReport
    from pipeline.runtime.local import Runner as Runner
    from pipeline.runtime.rpc import RemoteRunner as RemoteRunner
    from pipeline.samples import Images as Images
    from pipeline.targets import Target as Target
    from pipeline.targets import list_targets as list_targets
    from pipeline.targets import load_target as load_target
    from pipeline.workflow import build as build
    from pipeline.workflow import quantize_within as quantize_within

_EXPORTS = {
    "AnnotateOptions": "pipeline.config.options",
    "Annotation": "pipeline.quantization.annotation",
    "BuildReport": "pipeline.report.build_report",
    "CalibrateOptions": "pipeline.config.options",
    "CalibrationTable": "pipeline.quantization.table",
    "ImageOptions": "pipeline.config.options",
    "Images": "pipeline.samples",
    "PipelineError": "pipeline.errors",
    "Profile": "pipeline.profiling",
    "Program": "pipeline.ir.program",
    "Quantized": "pipeline.api",
    "RemoteRunner": "pipeline.runtime.rpc",
    "Runner": "pipeline.runtime.local",
    "Target": "pipeline.targets",
    "annotate": "pipeline.quantization.annotate",
    "build": "pipeline.workflow",
    "calibrate": "pipeline.quantization.calibrate",
    "compare": "pipeline.diagnosis",
    "compile_program": "pipeline.compiler.build",
    "import_model": "pipeline.importer",
    "list_targets": "pipeline.targets",
    "load": "pipeline.api",
    "load_target": "pipeline.targets",
    "profile": "pipeline.profiling",
    "quantize": "pipeline.api",
    "quantize_within": "pipeline.workflow",
    "read_metadata": "pipeline.library.metadata",
    "realize": "pipeline.quantization.realize",
    "sensitivity": "pipeline.diagnosis",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _EXPORTS:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    try:
        module = importlib.import_module(_EXPORTS[name])
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("pipeline"):
            raise
        message = f"pipeline.{name} isn't part of onnx-int8-runner; install onnx-int8-pipeline in its place"
        raise ImportError(message) from error
    return getattr(module, name)


def _version() -> str:
    """Return the installed version, which differs between commits; "0" of a source tree that isn't installed."""
    # Only here: a runner should be ready soon.
    from importlib import metadata

    for distribution in ("onnx-int8-pipeline", "onnx-int8-runner"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "0"


def __dir__() -> list[str]:
    return __all__
