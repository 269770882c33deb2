"""Reports as pictures, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.analysis.comparison import Comparison
from pipeline.analysis.sensitivity import Sensitivity
from pipeline.errors import OptionError, missing_extra
from pipeline.files import check_writable, write_bytes

FORMATS = ("pdf", "png", "svg")
"""What pictures may be written as, by the ends of their files' names."""

_INCHES_A_ROW, _MARGIN = 0.22, 1.6
"""Height of a line of a picture, and of what is above and below all."""

MOST_ROWS = 80
"""Of a ranking."""

_KINDS = {"tensor": "tab:blue", "weights": "tab:orange", "layer": "tab:gray"}

_COLORS = {"int8": "tab:blue", "float32": "tab:gray"}


def check_plot(path: Path) -> None:
    """Refuse, before the work, to draw what can't be drawn.

    Raises:
        OptionError: the file's name says no known format, it can't be written, or matplotlib isn't installed.
    """
    if path.suffix.removeprefix(".") not in FORMATS:
        raise OptionError(f"--plot {path}: pictures are written as {', '.join(f'.{f}' for f in FORMATS)}; name it so.")
    check_writable(path)
    _matplotlib()


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw the quality of each tensor, in order of execution, and how much of it is clipped.

    Raises:
        OptionError: see `check_plot`; or the file can't be written.
    """
    tensors = comparison.tensors
    figure, (quality, clipped) = _panels(len(tensors), 2, (3, 1))
    highest = max((t.sqnr_db for t in tensors if math.isfinite(t.sqnr_db)), default=1.0)
    # Equal tensors have the longest bar, and those that are lost none.
    lengths = [min(max(t.sqnr_db, 0.0), highest) for t in tensors]
    places = range(len(tensors))
    quality.barh(places, lengths, color=[_COLORS[t.precision] for t in tensors])
    quality.axvline(comparison.below, color="tab:red", linewidth=1)
    quality.set_xlabel(f"signal to quantization noise, dB (red: {comparison.below:g})")
    _explain_colors(quality, {p: color for p, color in _COLORS.items() if any(t.precision == p for t in tensors)})
    clipped.barh(places, [100 * (t.clipped or 0.0) for t in tensors], color="tab:orange")
    clipped.set_xlabel("clipped, %")
    clipped.set_xlim(left=0)
    _name_rows(quality, [t.name for t in tensors])
    figure.suptitle(f"{comparison.model}: int8 beside float on {comparison.samples} {comparison.inputs}")
    _save(figure, path)


def plot_sensitivity(sensitivity: Sensitivity, path: Path) -> None:
    """Draw what quantizing each part alone costs, those that cost most.

    Raises:
        OptionError: see `check_plot`; or the file can't be written.
    """
    costs = sensitivity.costs[:MOST_ROWS]
    figure, (shares, quality) = _panels(len(costs), 2, (3, 2))
    places = range(len(costs))
    shares.barh(places, [100 * c.share for c in costs], color=[_KINDS[c.kind] for c in costs])
    shares.set_xlabel("share of the cost of all tensors and weights, %")
    _explain_colors(shares, _KINDS)
    finite = [c.sqnr_db for c in costs if math.isfinite(c.sqnr_db)]
    quality.plot([min(c.sqnr_db, max(finite, default=0.0)) for c in costs], places, ".", color="tab:gray")
    quality.set_xlabel("SQNR of the outputs, dB")
    _name_rows(shares, [f"{c.name}" for c in costs])
    shown = "" if len(costs) == len(sensitivity.costs) else f" (the worst {len(costs)} of {len(sensitivity.costs)})"
    where = f"{sensitivity.samples} {sensitivity.inputs}"
    figure.suptitle(f"{sensitivity.model}: quantized alone, on {where}{shown}")
    _save(figure, path)


def _explain_colors(panel: Any, colors: Mapping[str, str]) -> None:
    patch = _matplotlib().patches.Patch
    panel.legend(handles=[patch(color=color, label=meaning) for meaning, color in colors.items()], loc="lower right")


def _matplotlib() -> Any:
    """Return matplotlib.

    Raises:
        OptionError: it isn't installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.patches
    except ModuleNotFoundError as error:
        raise missing_extra("--plot needs matplotlib", "plot") from error
    return matplotlib


def _panels(rows: int, count: int, widths: tuple[int, ...]) -> tuple[Any, Any]:
    """Return a figure with panels side by side that share their rows."""
    size = (4 + 3 * count, _MARGIN + _INCHES_A_ROW * rows)
    figure = _matplotlib().figure.Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, count, sharey=True, squeeze=True, gridspec_kw={"width_ratios": widths})


def _name_rows(panel: Any, names: list[str]) -> None:
    """Write a name beside each row, the first one on top."""
    # A dollar sign would begin a formula.
    panel.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=6)
    panel.set_ylim(len(names) - 0.5, -0.5)


def _save(figure: Any, path: Path) -> None:
    """Write a figure, the same bytes for the same result."""
    memory, kind = io.BytesIO(), path.suffix.removeprefix(".")
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with _matplotlib().rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(memory, format=kind, metadata=undated)
    write_bytes(path, memory.getvalue())
