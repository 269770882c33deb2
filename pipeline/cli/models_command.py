"""`pipeline models`."""

from __future__ import annotations

from rich.table import Table

from pipeline.cli.console import show
from pipeline.cli.options import new_command
from pipeline.recipes import list_recipes


@new_command("models")
def command(as_json: bool) -> None:
    """List the models that have a recipe."""
    rows = [
        {"name": r.name, "description": r.description, "licence": r.licence, "source": _source(r.source)}
        for r in list_recipes()
    ]

    def table() -> Table:
        made = Table("model", "what it does", "licence", "from")
        for row in rows:
            made.add_row(*row.values())
        return made

    show({"models": rows}, table, as_json)


def _source(source: object) -> str:
    package, version = getattr(source, "package", None), getattr(source, "version", None)
    return "this package" if package is None else f"{package} {version}"
