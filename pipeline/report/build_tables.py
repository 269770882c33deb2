"""The report of a build as tables, for people."""

from __future__ import annotations

import collections

from rich.table import Table

from pipeline.importer.verify import ImportCheck
from pipeline.quantization.annotation import Annotation
from pipeline.report.build_report import BuildReport
from pipeline.report.mixed_tables import mixed_tables


def build_tables(report: BuildReport, command: str | None = None) -> list[Table]:
    """Return a summary, measurements, exceptions, files, operators in float and tuned layers, as far as there are any.

    Args:
        report: the report.
        command: a command line that builds the same libraries without a search; None if there was no search.
    """
    summary = Table("", "", title=f"{report.model}: {report.annotation.summary()}", show_header=False)
    summary.add_row("import verified", describe_import_check(report.import_check))
    for spec in report.inputs:
        summary.add_row(f"input {spec.name}", f"{'x'.join(map(str, spec.shape))} {spec.dtype}")
    if report.preprocessing is not None:
        summary.add_row("pictures", str(report.preprocessing))
    count = report.calibration_samples
    summary.add_row("calibrated", f"{report.algorithm}, {count} sample{'s' * (count != 1)}")
    for outcome in report.corrections:
        summary.add_row(outcome.name, str(outcome))
    if report.agreement is not None:
        summary.add_row("compared with float on", report.agreement.where())
        summary.add_row("same answer as float", f"{report.agreement.same_argmax:.4f}")
        summary.add_row("signal to noise (SQNR)", f"{report.agreement.sqnr_db:.1f} dB")
    return [
        summary,
        *_measured(report),
        *mixed_tables(report.mixed, command),
        _files(report),
        *left_in_float(report.annotation),
        *_tuned(report),
    ]


def _measured(report: BuildReport) -> list[Table]:
    table = Table("", "float32", "int8")
    if report.accuracy is not None:
        a = report.accuracy
        table.add_row(f"accuracy on {a.samples} labelled samples", f"{a.float32:.4f}", f"{a.int8:.4f}")
    if report.timing is not None:
        t = report.timing
        threads = "1 thread" if t.threads == 1 else f"{t.threads} threads"
        gain = f"{t.int8_ms:.3f} ms ({t.float32_ms / t.int8_ms:.1f}x)"
        table.add_row(f"latency here, {threads}", f"{t.float32_ms:.3f} ms", gain)
    return [table] if table.row_count else []


def _files(report: BuildReport) -> Table:
    table = Table("file", "what", "bytes")
    for library in report.libraries:
        what = library.target if library.target == library.resolved else f"{library.target} ({library.resolved})"
        table.add_row(library.path, f"library for {what}", str(library.size))
    for what, path in report.files.items():
        table.add_row(path, what, "")
    return table


def _tuned(report: BuildReport) -> list[Table]:
    if not report.tuned:
        return []
    table = Table("layer", "cost model's tile", "us", "quickest tile", "us", "gain", title="tuning")
    for layer in report.tuned:
        t = layer.tile
        if (t.mr, t.nv) != (t.model_mr, t.model_nv):
            before, after = f"{t.model_microseconds:.1f}", f"{t.microseconds:.1f}"
            gain = f"{1 - t.microseconds / t.model_microseconds:.0%}"
            table.add_row(layer.layer, f"{t.model_mr}x{t.model_nv}", before, f"{t.mr}x{t.nv}", after, gain)
    model = sum(layer.tile.model_microseconds for layer in report.tuned)
    tuned = sum(layer.tile.microseconds for layer in report.tuned)
    table.add_row(f"all {len(report.tuned)}", "", f"{model:.1f}", "", f"{tuned:.1f}", f"{1 - tuned / model:.1%}")
    return [table]


def left_in_float(annotation: Annotation) -> list[Table]:
    """Return the operators that stay in float, counted by reason; no table if there are none."""
    reasons = collections.Counter((o.operator, o.reason) for o in annotation.operators if o.precision == "float32")
    if not reasons:
        return []
    table = Table("in float", "count", "why")
    for (operator, reason), count in reasons.most_common():
        table.add_row(operator, str(count), reason)
    return [table]


def describe_import_check(check: ImportCheck | None) -> str:
    """Return in words how an import was verified; None means that it wasn't."""
    if check is None:
        return "no, switched off"
    if check.evaluator is None or check.largest_error is None:
        return f"no: {check.note}"
    return f"within {check.largest_error:.1e} of {check.evaluator}, {check.seconds:.1f} s"
