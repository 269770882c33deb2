"""What would become of a model as tables, for people."""

from __future__ import annotations

from rich.table import Table

from pipeline.importer.verify import ImportCheck
from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.report.build_tables import describe_import_check
from pipeline.report.library_tables import inputs_and_outputs


def model_tables(program: Program, annotation: Annotation, check: ImportCheck | None) -> list[Table]:
    """Return inputs and outputs, how the import was verified, and what each operator would be computed in.

    Args:
        program: the float program.
        annotation: what would become int8.
        check: how the import was verified; None if that was switched off.
    """
    verified = Table(show_header=False)
    verified.add_row("import verified", describe_import_check(check))
    operators = Table("operator", "type", "computed in", "why", title=f"Model {program.name}")
    for o in annotation.operators:
        operators.add_row(o.name, o.operator, o.precision, o.reason)
    return [inputs_and_outputs(program.inputs, program.outputs), verified, operators]
