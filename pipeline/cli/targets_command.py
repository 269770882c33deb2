"""`pipeline targets`."""

from __future__ import annotations

from rich.table import Table

from pipeline.cli.console import show
from pipeline.cli.options import new_command
from pipeline.targets import list_targets, load_target


@new_command("targets")
def command(as_json: bool) -> None:
    """List the targets that libraries can be built for."""
    host = load_target("host").name
    rows = [{"name": t.name, "description": t.description, "host": t.name == host} for t in list_targets()]

    def table() -> Table:
        made = Table("target", "for")
        for row in rows:
            mark = " (this machine)" if row["host"] else ""
            made.add_row(f"{row['name']}{mark}", str(row["description"]))
        return made

    show({"targets": rows}, table, as_json)
