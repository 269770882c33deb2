"""All options there are. The stages take the classes of this module; see `config` for how to add an option."""

# ruff: noqa: RUF009 - `option` and `group` return dataclass fields

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import Options, group, option
from pipeline.config.values import parse_number, parse_numbers, parse_shape, parse_size


def _targets() -> Iterable[str]:
    from pipeline.targets import list_targets

    return ("host", *(target.name for target in list_targets()))


@dataclass(frozen=True)
class AnnotateOptions(Options):
    """What the user wants quantized; see `quantization.selection` for how operators are named.

    Attributes:
        operators: operators that may become int8; None means all.
        skip: operators that stay in float.
        per_channel: one weight scale per output channel; otherwise one per tensor.
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
        metavar="WHICH",
        paddle="skip_tensor_list",
    )
    per_channel: bool = option(
        True,
        "One weight scale per output channel instead of one per tensor.",
        flag="--per-channel/--per-tensor",
        paddle="weight_quantize_type",
    )


@dataclass(frozen=True)
class CalibrateOptions(Options):
    """How thresholds are chosen.

    Attributes:
        algorithm: name of a calibration algorithm: a key of `quantization.observers.ALGORITHMS`, to which a program may
            add algorithms of its own.
        algorithm_options: the algorithm's own, by name; see its class.
        symmetric: spread the steps of signed tensors evenly around zero, the classic scheme.
        batch_size: samples that count as one batch.
        batch_nums: how many batches to use; None means all samples.
        hold_back: share of the samples that calibration leaves out, so that they can be measured on.
    """

    algorithm: str = option(
        "kl", "How thresholds are chosen.", choices=("abs_max", "kl"), extensible=True, metavar="NAME", paddle="algo"
    )
    algorithm_options: Mapping[str, int | float] = option(
        {},
        "Option of the algorithm, for example kept=0.999 for kl.",
        flag="--algorithm-option",
        metavar="NAME=VALUE",
        parse=parse_number,
    )
    symmetric: bool = option(False, "Spread the steps of signed tensors evenly around zero.")
    batch_size: int = option(1, "Samples that count as one batch.", minimum=1)
    batch_nums: int | None = option(None, "How many batches to calibrate with.", minimum=1, unset="all samples")
    hold_back: float = option(
        0.0,
        "Share of the samples, 0.1 for every tenth, to measure on and not to calibrate with.",
        metavar="SHARE",
        minimum=0,
        maximum=0.5,
    )


@dataclass(frozen=True)
class ImageOptions(Options):
    """How pictures become inputs; see `samples.images` for the steps. Libraries record it.

    Attributes:
        resize: to (width, height), or so that the shorter side has this length.
        crop: what is kept around the middle: (width, height), or a square's side.
        mean: subtracted from the values of 0 to 1: one for all channels, or one for each.
        std: what they are divided by then.
        scale: what pixels, 0 to 255, are multiplied by before that; None means 1/255.
        bgr: whether blue comes first.
        layout: NCHW or NHWC; None means what the model's input looks like.
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
        "Of pictures, keep this much around the middle.",
        metavar="WxH|SIDE",
        parse=parse_size,
        unset="the input's size, with --resize",
    )
    mean: float | tuple[float, ...] | None = option(
        None,
        "Subtract this from pictures' values (0 to 1), in the channels' order.",
        metavar="M[,M,M]",
        parse=parse_numbers,
        unset="0",
    )
    std: float | tuple[float, ...] | None = option(
        None, "Divide by this after that.", metavar="S[,S,S]", parse=parse_numbers, unset="1"
    )
    scale: float | None = option(
        None, "Multiply pixels (0 to 255) by this first; 1 if --mean and --std are of 0 to 255.", unset="1/255"
    )
    bgr: bool = option(False, "Order of pictures' channels; RGB if neither is said.", flag="--bgr/--rgb")
    layout: str | None = option(
        None,
        "Where pictures' channels stand.",
        choices=("NCHW", "NHWC"),
        metavar="NCHW|NHWC",
        unset="as the input's shape has it",
    )


@dataclass(frozen=True)
class CorrectionOptions(Options):
    """What makes the int8 model's error smaller, at the cost of a longer quantization.

    Attributes:
        bias_correction: see `quantization.corrections.bias_correction`.
    """

    bias_correction: bool = option(False, "Take the mean error of quantized weights from biases.")


@dataclass(frozen=True)
class QuantizeOptions(Options):
    """How a float program becomes an int8 one.

    Attributes:
        annotate: what is quantized.
        calibrate: how thresholds are chosen.
        corrections: what makes the error smaller.
        images: how pictures among the samples become inputs.
    """

    annotate: AnnotateOptions = group(AnnotateOptions)
    calibrate: CalibrateOptions = group(CalibrateOptions)
    corrections: CorrectionOptions = group(CorrectionOptions)
    images: ImageOptions = group(ImageOptions)


@dataclass(frozen=True)
class ModelOptions(Options):
    """A model, and how it becomes int8.

    Attributes:
        quantize: how the float program becomes an int8 one.
        shapes: input name -> shape, for inputs whose shapes the model leaves open.
        calibration: file of a calibration table to use as it is; nothing is run.
        annotation: file of decisions to use as they are.
        verify_import: whether to compare the float program with an independent evaluation of the ONNX file.
    """

    quantize: QuantizeOptions = group(QuantizeOptions)
    shapes: Mapping[str, Sequence[int]] = option(
        {},
        "Shape of an input that the model leaves open.",
        flag="--shape",
        metavar="NAME=D,D,...",
        parse=parse_shape,
    )
    calibration: Path | None = option(None, "Use this calibration table instead of calibrating.", metavar="FILE")
    annotation: Path | None = option(
        None, "Use the decisions of this file instead of deciding what becomes int8.", metavar="FILE"
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
class BuildOptions(MeasuredOptions):
    """What to build of a model, and how.

    Attributes:
        targets: names of targets, or paths of target files.
        output: folder for everything that is written; made if it doesn't exist.
        check: whether to measure how far int8 is from float: on `check_samples`, on those that are held back, or on the
            calibration samples.
        min_sqnr: smallest signal to quantization noise that is good enough, decibels.
        min_agreement: smallest share of the same answers as float that is good enough.
        allow_float: whether a model of which nothing becomes int8 is built all the same.
        float_library: whether to build the float model for this machine, too; then, a model of which nothing becomes
            int8 is built with a warning.
        dump: folder for the program after each compiler phase.
        tune: file of a tuning database; the layers that it doesn't know are measured on this machine first.
    """

    targets: Sequence[str] = option(
        ("host",),
        "What to build for: names (see `pipeline targets`), or target files.",
        flag="--target",
        metavar="TARGET",
        suggestions=_targets,
        paddle="valid_targets",
    )
    output: Path = option(Path("out"), "Folder for everything that is written.", short="-o", metavar="FOLDER")
    check: bool = option(True, "Measure how far int8 is from float.")
    min_sqnr: float | None = option(
        None, "Fail if the signal to quantization noise is less.", metavar="DECIBELS", minimum=0
    )
    min_agreement: float | None = option(
        None, "Fail if a smaller share of answers is the same as float's.", metavar="SHARE", minimum=0, maximum=1
    )
    allow_float: bool = option(False, "Build the libraries even if none of the operators becomes int8.")
    float_library: bool = option(
        False, "Build the float model for host, too; then, nothing in int8 is a warning only.", flag="--float"
    )
    dump: Path | None = option(None, "Folder for each compiler phase's program and assembly.", metavar="FOLDER")
    tune: Path | None = option(None, "Measure layers here; a file to keep the results in.", metavar="FILE")
