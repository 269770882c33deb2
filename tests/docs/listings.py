"""The listings of a Markdown document: fenced and indented blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?:    [^\n]*\n(?:\n(?=    ))?)+)")


@dataclass(frozen=True)
class Listing:
    """A block of code.

    Attributes:
        document: name of the file that it stands in.
        language: what stands behind the fence; empty for others.
        text: its lines.
    """

    document: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.splitlines()[0].strip()

    def commands(self) -> list[str]:
        """Return its lines as commands, their comments and prompts taken away, continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(line.partition(" #")[0].split()) for line in lines if line.strip()]


def listings(document: Path) -> list[Listing]:
    """Return a document's listings in order."""
    text = document.read_text(encoding="utf-8")
    found = [(m.start(), Listing(document.name, m[1], m[2])) for m in _FENCED.finditer(text)]
    prose = _FENCED.sub(lambda m: re.sub(r"[^\n]", "~", m[0]), text)
    found += [(m.start(), Listing(document.name, "", m[1])) for m in _INDENTED.finditer(prose)]
    return [listing for _, listing in sorted(found, key=lambda entry: entry[0])]
