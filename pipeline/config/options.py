"""All options. The stages take objects of these classes; the docstring of `config` says how to add an option."""

# ruff: noqa: RUF009 - `option` and `group` return dataclass fields

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import Options, group, option
from pipeline.config.values import parse_number, parse_numbers, parse_shape, parse_size
from pipeline.errors import OptionError


def _targets() -> Iterable[str]:
    from pipeline.targets import list_targets

    return ("host", *(target.name for target in list_targets()))


EFFORTS = ("none", "fast", "balanced", "best")
"""How much time corrections may take; `quantization.corrections` says which ones that are."""


@dataclass(frozen=True)
class AnnotateOptions(Options):
    """What is quantized; see `quantization.selection` for how operators are named.

    Attributes:
        operators: operators that may become int8; None means all.
        skip: operators that stay in float.
        per_channel: whether weights have a scale for each output channel, or one for all.
        weight_algorithm: what chooses these scales; one of `quantization.spec.WEIGHT_ALGORITHMS`. None means abs_max
            for 8 bits, and mse for 4.
        weight_bits: how many bits the weights of dense layers have, 8 or 4; those of convolutions have 8.
        activation_bits: how many bits activations have that int8 operators read: 8, or 16.
        keep_16: tensors that have 16 bits in any case; see `quantization.widening`.
    """

    operators: Collection[str] | None = option(
        None,
        "Only quantize these operators: types of ONNX or Paddle (Conv, conv2d, mul), names, or patterns (*/attn/*).",
        flag="--operator",
        metavar="WHICH",
        unset="all",
        paddle="quantizable_op_type",
    )
    skip: Collection[str] = option(
        (),
        "Leave these operators in float: names of nodes or of their outputs, types, or patterns (*/head/*).",
        aliases=("--keep-float",),
        metavar="WHICH",
        paddle="skip_tensor_list",
    )
    per_channel: bool = option(
        True,
        "One weight scale per output channel instead of one per tensor.",
        flag="--per-channel/--per-tensor",
        paddle="weight_quantize_type",
    )
    weight_algorithm: str | None = option(
        None,
        "How the scales of weights are chosen: by the largest weight, or by the smallest squared error.",
        choices=("abs_max", "mse"),
        metavar="NAME",
        unset="abs_max; mse for 4 bits",
    )
    weight_bits: int = option(
        8,
        "Bits of dense layers' weights: 4 take half the memory, and are less accurate; convolutions keep 8.",
        choices=("4", "8"),
        metavar="4|8",
    )
    activation_bits: int = option(
        8,
        "Bits of activations: 16 are closer to float than 8, and take longer; weights keep 8.",
        choices=("8", "16"),
        metavar="8|16",
    )
    keep_16: Collection[str] = option(
        (),
        "Keep these activations in 16 bits: names of tensors, or whatever stands for operators that write them.",
        metavar="WHICH",
    )


@dataclass(frozen=True)
class CalibrateOptions(Options):
    """How the scales of activations are chosen.

    Attributes:
        algorithm: name of a calibration algorithm: a key of `quantization.observers.ALGORITHMS`, to which a program may
            add algorithms of its own.
        algorithm_options: options of the algorithm itself, by name; see its class.
        symmetric: whether the range of tensors that can be negative is symmetric around zero.
        batch_size: how many samples count as one batch, for `batch_nums`.
        batch_nums: how many batches to calibrate with; None means all samples.
        hold_back: share of the samples that calibration leaves out, so that the int8 model can be measured on them.
        resume: file of what calibration has seen, for a run that goes on after an interruption; see
            `quantization.resuming`.
    """

    algorithm: str = option(
        "auto",
        "How ranges are chosen.",
        choices=("abs_max", "auto", "avg", "emd", "hist", "kl", "min_max", "moving_average", "mse"),
        extensible=True,
        metavar="NAME",
        paddle="algo",
    )
    algorithm_options: Mapping[str, int | float] = option(
        {},
        "Set an option of the algorithm, for example kept=0.999 for kl, or hist_percent=0.9999 for hist.",
        flag="--algorithm-option",
        metavar="NAME=VALUE",
        paddle="hist_percent",
        parse=parse_number,
    )
    symmetric: bool = option(False, "Make the range of tensors that can be negative symmetric around zero.")
    batch_size: int = option(1, "How many samples count as one batch.", minimum=1)
    batch_nums: int | None = option(None, "How many batches to calibrate with.", minimum=1, unset="all samples")
    hold_back: float = option(
        0.0,
        "Share of the samples to measure on instead of calibrating with them; 0.1 means every tenth.",
        metavar="SHARE",
        minimum=0,
        maximum=0.5,
    )
    resume: Path | None = option(
        None,
        "Keep what calibration has seen in this file, and go on from there after an interruption.",
        metavar="FILE",
    )


@dataclass(frozen=True)
class ImageOptions(Options):
    """How pictures become inputs; see `samples.images` for the steps. Libraries record these options.

    Attributes:
        resize: size in pixels to resize to: (width, height), or the length of the shorter side, which keeps the aspect.
        crop: size in pixels of the part around the middle that is kept: (width, height), or the side of a square.
        mean: subtracted from scaled values: one number for all channels, or one for each.
        std: by which the difference is divided: one number for all channels, or one for each.
        scale: by which pixels, 0 to 255, are multiplied before that; None means 1/255.
        bgr: whether the order of the channels is blue, green, red.
        layout: "NCHW" or "NHWC"; None means that it follows from the shape of the model's input.
    """

    resize: int | tuple[int, int] | None = option(
        None,
        "Resize pictures to this width and height, or so that the shorter side has this length.",
        metavar="WxH|SHORT",
        parse=parse_size,
        unset="the input's size, without --crop",
    )
    crop: int | tuple[int, int] | None = option(
        None,
        "Crop pictures around the middle to this size.",
        metavar="WxH|SIDE",
        parse=parse_size,
        unset="the input's size, with --resize",
    )
    mean: float | tuple[float, ...] | None = option(
        None,
        "Subtract this from the scaled values of pictures: one number, or one for each channel.",
        metavar="M[,M,M]",
        parse=parse_numbers,
        unset="0",
    )
    std: float | tuple[float, ...] | None = option(
        None, "Divide the result by this.", metavar="S[,S,S]", parse=parse_numbers, unset="1"
    )
    scale: float | None = option(
        None,
        "Multiply pixels (0 to 255) by this first; 1 if --mean and --std are for values of 0 to 255.",
        unset="1/255",
    )
    bgr: bool = option(False, "Order of the channels of pictures; RGB if neither is given.", flag="--bgr/--rgb")
    layout: str | None = option(
        None,
        "Layout of pictures in the model's input.",
        choices=("NCHW", "NHWC"),
        metavar="NCHW|NHWC",
        unset="as the input's shape says",
    )


@dataclass(frozen=True)
class CorrectionOptions(Options):
    """Corrections that make the error of the int8 model smaller, and calibration a little longer.

    Attributes:
        effort: which corrections are on where their own switches don't say it; one of `EFFORTS`.
        equalization: see `quantization.equalization`.
        per_channel_activations: see `quantization.corrections.per_channel_activations`.
        mse_ranges: see `quantization.corrections.mse_ranges`.
        weight_rounding: see `quantization.corrections.weight_rounding`.
        adaround: see `quantization.corrections.adaround`.
        bias_correction: see `quantization.corrections.bias_correction`.
        layerwise_bias_correction: see `quantization.corrections.layerwise_bias_correction`.
    """

    effort: str = option(
        "balanced",
        "How much time to spend on corrections; each is kept only if it helps on samples that it hasn't seen.",
        choices=EFFORTS,
        metavar="NAME",
    )
    equalization: bool | None = option(
        None,
        "Even out the channels of tensors between layers, so that one scale fits them all; calibrates twice.",
        flag="--equalization/--no-equalization",
        unset="as --effort says",
    )
    per_channel_activations: bool | None = option(
        None,
        "Give each channel of a tensor a scale of its own, where only depthwise convolutions read it.",
        flag="--per-channel-activations/--per-tensor-activations",
        unset="as --effort says",
    )
    mse_ranges: bool | None = option(
        None,
        "Take the ranges with the smallest squared error everywhere, where --algorithm auto has chosen others.",
        flag="--mse-ranges/--no-mse-ranges",
        unset="as --effort says",
    )
    weight_rounding: bool | None = option(
        None,
        "Round weights so that their errors cancel out, by the second moments of what they are multiplied with.",
        flag="--weight-rounding/--no-weight-rounding",
        unset="as --effort says",
    )
    adaround: bool | None = option(
        None,
        "Learn whether to round each weight up or down, layer by layer, with the quantized layers before it.",
        flag="--adaround/--no-adaround",
        unset="off",
    )
    bias_correction: bool | None = option(
        None,
        "Subtract the mean error that quantized weights cause from biases.",
        flag="--bias-correction/--no-bias-correction",
        unset="as --effort says",
    )
    layerwise_bias_correction: bool | None = option(
        None,
        "Subtract each layer's mean error, measured with the quantized layers before it, from its bias.",
        flag="--layerwise-bias-correction/--no-layerwise-bias-correction",
        unset="as --effort says",
    )


@dataclass(frozen=True)
class ScaleOutOptions(Options):
    """Who runs the model on samples; see `scale_out`. The results are the same.

    Attributes:
        workers: how many processes of this machine; None means this process.
        cluster: address of a Dask cluster's scheduler, to use its workers.
    """

    workers: int | None = option(
        None, "Run the model on samples in so many processes of this machine.", minimum=1, unset="in this process"
    )
    cluster: str | None = option(
        None,
        "Run the model on samples in the workers of this Dask cluster.",
        metavar="ADDRESS",
        unset="in this process",
    )

    def __post_init__(self) -> None:
        """Refuse both at once.

        Raises:
            OptionError: both are given.
        """
        super().__post_init__()
        if self.workers is not None and self.cluster is not None:
            raise OptionError(
                "--workers starts workers on this machine, --cluster uses running ones; give one of them."
            )


@dataclass(frozen=True)
class QuantizeOptions(Options):
    """How a float program becomes an int8 one.

    Attributes:
        annotate: what is quantized.
        calibrate: how the scales of activations are chosen.
        corrections: what makes the error smaller.
        images: how pictures among the samples become inputs.
        scale_out: who runs the model on samples.
    """

    annotate: AnnotateOptions = group(AnnotateOptions)
    calibrate: CalibrateOptions = group(CalibrateOptions)
    corrections: CorrectionOptions = group(CorrectionOptions)
    images: ImageOptions = group(ImageOptions)
    scale_out: ScaleOutOptions = group(ScaleOutOptions)


@dataclass(frozen=True)
class ModelOptions(Options):
    """A model, and how it becomes int8.

    Attributes:
        quantize: how the float program becomes an int8 one.
        shapes: input name -> shape, for inputs whose shapes the model leaves open.
        fixed: input name -> value of all its elements, for inputs that become constants.
        cut_at: tensors that become the outputs; what comes after them is left out.
        calibration: file of a calibration table to use as it is; then the model isn't run on samples for that.
        annotation: file that says what becomes int8; then `annotate` doesn't decide it.
        verify_import: whether to compare the float program with an independent evaluation of the ONNX file.
    """

    quantize: QuantizeOptions = group(QuantizeOptions)
    shapes: Mapping[str, Sequence[int]] = option(
        {},
        "Set the shape of an input that the model leaves open.",
        flag="--shape",
        metavar="NAME=D,D,...",
        parse=parse_shape,
    )
    fixed: Mapping[str, float] = option(
        {},
        "Fix an input to a number, in all of its elements; the library won't have that input.",
        flag="--fix",
        metavar="NAME=VALUE",
        parse=parse_number,
    )
    cut_at: Sequence[str] = option(
        (),
        "End the model at this tensor, which becomes an output, and leave out what comes after it.",
        metavar="TENSOR",
        unset="the model's outputs",
    )
    calibration: Path | None = option(None, "Use this calibration table instead of calibrating.", metavar="FILE")
    annotation: Path | None = option(
        None, "Let this annotation file say what becomes int8 instead of deciding it.", metavar="FILE"
    )
    verify_import: bool = option(
        True, "Compare the imported float model with an independent evaluation of the ONNX file."
    )


@dataclass(frozen=True)
class ExportOptions(ModelOptions):
    """What `pipeline quantize` takes.

    Attributes:
        output: the .onnx file to write.
    """

    output: Path | None = option(
        None,
        "The .onnx file to write.",
        short="-o",
        metavar="FILE",
        unset="the model's name with .int8.onnx, in the working folder",
    )


@dataclass(frozen=True)
class MeasuredOptions(ModelOptions):
    """A model whose int8 form is measured beside float.

    Attributes:
        check_samples: folder of samples to measure on.
    """

    check_samples: Path | None = option(
        None,
        "Folder of samples to measure on.",
        metavar="FOLDER",
        unset="those held back, or some of the calibration samples",
    )


@dataclass(frozen=True)
class StudyOptions(MeasuredOptions):
    """What is found out about an int8 model, tensor by tensor.

    Attributes:
        measure: how many samples to measure on.
        plot: file of a picture of the result.
    """

    measure: int = option(16, "How many samples to measure on, the first ones.", minimum=1)
    plot: Path | None = option(None, "Draw the result: a .png, .svg or .pdf.", metavar="FILE")


@dataclass(frozen=True)
class CompareOptions(StudyOptions):
    """What `pipeline compare` takes.

    Attributes:
        below: signal to quantization noise, in decibels, below which a tensor's quality counts as lost.
    """

    below: float = option(
        20.0, "Signal to quantization noise from which on down a tensor counts as poor.", metavar="DECIBELS"
    )


@dataclass(frozen=True)
class SensitivityOptions(StudyOptions):
    """What `pipeline sensitivity` takes.

    Attributes:
        metric: what the ranking is by: "sqnr", "cosine" or "kl" of the outputs, or a function in a Python file of the
            user's, "user.py:function", of which more is better.
        state: file that keeps what has been measured, so that an interrupted run can go on.
    """

    metric: str = option(
        "sqnr",
        "Rank by this: sqnr, cosine or kl of the outputs, or a function in a Python file of yours (more is better).",
        metavar="sqnr|cosine|kl|FILE.py:FUNCTION",
    )
    state: Path | None = option(
        None, "Keep what was measured in this file, and go on from there after an interruption.", metavar="FILE"
    )


@dataclass(frozen=True)
class MixedPrecisionOptions(Options):
    """How good an int8 model has to be, for which as little as possible is excepted from 8 bits.

    Attributes:
        max_drop: how much worse than float the model may be: a difference, or a text with a percent sign, relative to
            float's value. None means that nothing is searched for.
        metric: what that is measured by: "sqnr", "cosine" or "kl" of the outputs, or a function in a Python file of the
            user's, "user.py:function", of which more is better.
        operator_times: file of measured times by which exceptions are chosen. If it doesn't exist, they are measured on
            this machine; with the file, a build finds the same again. None means estimated times.
    """

    max_drop: float | str | None = option(
        None,
        "Keep the fewest and cheapest tensors in 16 bits, or operators in float, with which the metric drops by at "
        "most this: a difference (0.005), or relative to float's value (0.5%).",
        metavar="DROP|PERCENT",
        unset="no limit",
        parse=str,
    )
    metric: str = option(
        "sqnr",
        "Measure --max-drop by this: sqnr (noise by signal, 0.01 is 20 dB), cosine or kl of the outputs, or a function "
        "in a Python file of yours (more is better).",
        metavar="sqnr|cosine|kl|FILE.py:FUNCTION",
    )
    operator_times: Path | None = option(
        None,
        "Choose by times of operators that were measured on this machine, and keep them in this file, for the same "
        "choice next time.",
        metavar="FILE",
        unset="estimated by multiply-adds and bytes",
    )


@dataclass(frozen=True)
class BuildOptions(MeasuredOptions):
    """What to build of a model, and how.

    Attributes:
        mixed: how good it has to be, for which as little as possible is excepted from 8 bits.
        targets: names of targets, or paths of target files.
        output: folder for everything that is written; made if it doesn't exist.
        check: whether to measure how far int8 is from float: on `check_samples` if they are given, else on samples that
            are held back, else on some of the calibration samples.
        min_sqnr: smallest signal to quantization noise ratio (SQNR) that is good enough, decibels.
        min_agreement: smallest share of samples with the same answer as float that is good enough, 0 to 1.
        allow_float: whether a model is built even if none of its operators becomes int8.
        float_library: whether to build the float model for this machine, too. Then a model none of whose operators
            becomes int8 is built as well, with a warning.
        dump: folder for the program after each compiler phase, and the assembly.
        tune: file of a tuning database. Layers that aren't in it are measured on this machine and added.
    """

    mixed: MixedPrecisionOptions = group(MixedPrecisionOptions)
    targets: Sequence[str] = option(
        ("host",),
        "What to build for: the name of a target (see `pipeline targets`), or a target file.",
        flag="--target",
        metavar="TARGET",
        suggestions=_targets,
        paddle="valid_targets",
    )
    output: Path = option(Path("out"), "Folder for everything that is written.", short="-o", metavar="FOLDER")
    check: bool = option(True, "Measure how far int8 is from float.")
    min_sqnr: float | None = option(
        None, "Fail if the signal to quantization noise ratio (SQNR) is less.", metavar="DECIBELS", minimum=0
    )
    min_agreement: float | None = option(
        None,
        "Fail if int8 gives the same answer as float for a smaller share of samples, 0 to 1.",
        metavar="SHARE",
        minimum=0,
        maximum=1,
    )
    allow_float: bool = option(False, "Build the libraries even if none of the operators becomes int8.")
    float_library: bool = option(
        False,
        "Build the float model for host, too; then it is only a warning if no operator becomes int8.",
        flag="--float",
    )
    dump: Path | None = option(
        None, "Write the program after each compiler phase, and the assembly, to this folder.", metavar="FOLDER"
    )
    tune: Path | None = option(
        None, "Measure on this machine how to compute each layer, and keep the results in this file.", metavar="FILE"
    )
