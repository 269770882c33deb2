"""All exceptions that the pipeline raises on purpose.

    PipelineError                 base; the command line prints it and exits with `exit_code`
    ├── ModelError                the ONNX file can't be read, or holds something that can't be imported
    ├── SampleError               a sample has a wrong name, shape, dtype or value, or there is none
    ├── TableError                a calibration table or an annotation file doesn't fit its schema or the model
    ├── MetricError               a user's metric raised an exception, or what it returned is no number
    ├── OptionError               an option, configuration key, algorithm or target is unknown or out of range
    ├── TargetError               a target file is wrong, or this machine can't run a library built for it
    ├── QuantizationError         nothing became int8, or the int8 model isn't what was asked for
    ├── BuildError                compiling or linking failed
    ├── ArtifactError             a library wasn't built by this pipeline, or is damaged
    └── DeviceError               an RPC server, tracker or session failed

Each message says what was wrong and where (file, node, tensor, option), what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class PipelineError(Exception):
    """Base of every error that a user can act on.

    Attributes:
        exit_code: the process exit code that the command line ends with (2: the input or usage is wrong; 1: the
            work itself failed).
    """

    exit_code: int = 2


class ModelError(PipelineError):
    """The model file is missing, damaged, or holds something that can't be imported."""


class SampleError(PipelineError):
    """The samples don't fit the model, or there are none."""


class TableError(PipelineError):
    """A calibration table or annotation doesn't fit its schema or the model."""


class OptionError(PipelineError):
    """An option, configuration key, algorithm or name is unknown or out of range."""


class MetricError(PipelineError):
    """A user's metric raised an exception, or returned what is no finite number."""


class TargetError(PipelineError):
    """A target description is wrong, or this machine can't run code built for it."""


class ArtifactError(PipelineError):
    """A shared library wasn't built by this pipeline, or is damaged."""


class QuantizationError(PipelineError):
    """Nothing became int8, or the int8 model is further from the float one than was asked for."""

    exit_code = 1


class BuildError(PipelineError):
    """Compiling or linking failed."""

    exit_code = 1


class DeviceError(PipelineError):
    """An RPC server, tracker or session failed."""

    exit_code = 1


def missing_extra(needs: str, extra: str) -> OptionError:
    """Return the error for an optional package that isn't installed.

    Args:
        needs: what needs which package, as a sentence without its point.
        extra: the extra of this package that brings it.
    """
    return OptionError(f"{needs}: pip install 'onnx-int8-pipeline[{extra}]'.")


MAX_KNOWN = 50
"""Most names that a message about an unknown one lists."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown `name`, with the nearest known one suggested.

    Example:
        >>> unknown_name("algorithm", "kll", ["kl", "abs_max"])
        "Unknown algorithm 'kll'. Known: abs_max, kl. Did you mean 'kl'?"
    """
    # Only here: a runner should be ready soon.
    import difflib

    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    more = f" and {len(choices) - MAX_KNOWN} more" if len(choices) > MAX_KNOWN else ""
    return f"Unknown {kind} {name!r}. Known: {', '.join(choices[:MAX_KNOWN]) or 'none'}{more}.{hint}"
