"""What options and values of PaddleSlim and of Paddle-Lite's `opt` are here, for scripts that were written there.

PaddleSlim's are the parameters of `quant_post_static` and of Paddle's `PostTrainingQuantization`, which it calls.
An option with a counterpart that takes the same values isn't among them: the counterpart in `config.options` says what
PaddleSlim calls it.
"""

from __future__ import annotations

from collections.abc import Mapping

_MODEL = "The model is an ONNX file, which paddle2onnx makes of Paddle's files."
_SAMPLES = (
    "Calibration takes its samples from samples= in Python (a function, a loader, or arrays), or --samples FOLDER."
)
_OUTPUT = "Where to write is said by output (--output)."
_RESUME = "What calibration has seen is kept in a file by resume (--resume)."
_LISTED = "`pipeline inspect MODEL` lists a model's operators, and what becomes of them."
_NOT_NEEDED = "It isn't needed here."
_FLOAT16 = (
    "Libraries don't compute in float16: operators are in int8 or float32, or in 16-bit integers (keep_16, --keep-16)."
)
_SPARSE = "Weights aren't made sparse here."
_WEIGHTS_ONLY = (
    "Quantizing weights alone isn't there; int8 here means weights and activations, with ranges fixed by calibration."
)

OPTIONS: Mapping[str, str] = {
    "activation_quantize_type": (
        "Activations have one scale for each tensor, fixed by calibration (algorithm, --algorithm); scales computed at "
        "run time aren't there."
    ),
    "batch_generator": _SAMPLES,
    "cache_dir": _RESUME,
    "data_loader": _SAMPLES,
    "deploy_backend": "What to build for is said by targets (--target).",
    "display_kernels": "`pipeline inspect LIBRARY` lists a library's kernels.",
    "enable_fp16": _FLOAT16,
    "executor": _NOT_NEEDED,
    "freeze_model": _NOT_NEEDED,
    "generate_test_model": "`pipeline quantize` writes the int8 model as ONNX, which other runtimes compute.",
    "hist_percent": "It is an option of the algorithm hist: algorithm_options={'hist_percent': 0.9999}, or "
    "--algorithm hist --algorithm-option hist_percent=0.9999.",
    "is_full_quantize": (
        "Whatever can be int8 is, which is what True means; for less, name operators (--operator) or skip (--skip)."
    ),
    "is_use_cache_file": _RESUME,
    "learning_rate": "It belongs to PaddleSlim's AdaRound; here, adaround (--adaround) finds its own.",
    "model_dir": _MODEL,
    "model_file": _MODEL,
    "model_filename": _MODEL,
    "model_set_dir": _MODEL,
    "onnx_format": "`pipeline quantize`, in Python Quantized.export, writes the int8 model as ONNX.",
    "optimize_model": "It's always on: normalization is folded into weights, and activations are fused.",
    "optimize_out": _OUTPUT,
    "optimize_out_type": "The result is a shared library for each target.",
    "param_file": _MODEL,
    "param_filename": _MODEL,
    "params_filename": _MODEL,
    "print_all_ops": _LISTED,
    "print_model_ops": _LISTED,
    "print_supported_ops": _LISTED,
    "quant_model": _WEIGHTS_ONLY,
    "quant_type": _WEIGHTS_ONLY,
    "quantize_model_path": _OUTPUT,
    "record_tailoring_info": "There is nothing to tailor: a library contains only the kernels that its model needs.",
    "return_graph": "In Python, pipeline.quantize returns the int8 model.",
    "round_type": (
        "Say adaround=True (--adaround) for 'adaround', weight_rounding=False (--no-weight-rounding) for 'round'; "
        "without either, weights are rounded so that their errors cancel out, if that helps."
    ),
    "same_scale_tensor_list": (
        "Tensors that have to share a scale, such as those that are concatenated, do so by themselves; for others, set "
        "the scales in a calibration table (calibration, --calibration)."
    ),
    "sample_generator": _SAMPLES,
    "save_model_filename": _OUTPUT,
    "save_params_filename": _OUTPUT,
    "scale_dict": "Scales of your own are given in a calibration table (calibration, --calibration).",
    "scope": _NOT_NEEDED,
    "sparse_model": _SPARSE,
    "sparse_threshold": _SPARSE,
    "weight_quantize_type": (
        "Say per_channel=True (--per-channel) for 'channel_wise_abs_max', per_channel=False (--per-tensor) for "
        "'abs_max'."
    ),
}
"""Name of an option there -> what to do here."""

ALGORITHMS: Mapping[str, str] = {
    "direct": "PaddleSlim's 'direct' is abs_max.",
    "ptf": (
        "PaddleSlim's 'ptf', scales for each channel that differ by powers of two, isn't there; against channels of "
        "different ranges, use equalization (--equalization) and per_channel_activations (--per-channel-activations)."
    ),
}
"""Value of PaddleSlim's `algo` -> what to do here."""

_CPU_ONLY = "Libraries run on the CPU; targets for other devices aren't there."

TARGETS: Mapping[str, str] = {
    "arm": "Paddle-Lite's 'arm' is android-arm64 for Android, linux-aarch64 for Linux.",
    "armv8": "Paddle-Lite's 'armv8' is android-arm64 for Android, linux-aarch64 for Linux.",
    "opencl": _CPU_ONLY,
    "x86": "Paddle-Lite's 'x86' is host for this machine, or a target that begins with x86-64.",
    "x86_opencl": _CPU_ONLY,
}
"""Value of Paddle-Lite's `valid_targets` -> what to do here."""


def hint(answers: Mapping[str, str], name: str) -> str:
    """Return what to do instead of a name of another tool, after a space; "" if the name isn't known.

    Args:
        answers: `OPTIONS`, `ALGORITHMS` or `TARGETS`.
        name: the name there, in any case.
    """
    known = answers.get(name.lower())
    return "" if known is None else f" {known}"
