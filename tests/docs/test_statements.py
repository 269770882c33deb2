"""Whatever README and docs name exists: files, links, options, targets, fields, and all places of an operator."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeline.cli import cli
from pipeline.kernels.isa import Capability, instruction_sets
from pipeline.library.metadata import ArtifactMetadata
from pipeline.quantization.spec import QuantizationSpec
from pipeline.quantization.table import Calibrated, CalibrationTable
from pipeline.targets import list_targets
from tests.docs.listings import DOCUMENTS, ROOT

TEXTS = {document.name: document.read_text(encoding="utf-8") for document in DOCUMENTS}

WRITTEN = r"(model|order|interleave|user|\d\d-\w+)\.py|\w+\.json|(kernels/isa/)?NAME\..*"
"""Files that commands in the docs write, and placeholders."""

OTHERS_OPTIONS = {
    "--port",
    "--port-end",
    "--host",
    "--tracker",
    "--key",
    "--target",
    "--valid_targets",
    "--quant_model",
    "--sparse_model",
    "--enable_fp16",
    "--optimize_out",
    "--print_model_ops",
    "--count",
    "--method",
    "--isa",
    "--core",
    "--kernel",
    "--layers",
    "--page",
    "--batch",
    "--precision",
}
"""Options of TVM's servers, of compilers, of other tools, of tests, and of benchmarks."""


def names_in(text: str, pattern: str) -> set[str]:
    """Return what stands in back quotes, outside of listings, and matches as a whole."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    words = (word for quoted in re.findall(r"`([^`\n]+)`", prose) for word in quoted.split())
    return {word for word in words if re.fullmatch(pattern, word)}


def table_below(text: str, heading: str) -> list[str]:
    """Return the names in the first column of the first table below a heading row that begins like this."""
    rows = text[text.index(heading) :].splitlines()[2:]
    column = (row.split("|")[1] for row in rows[: next(i for i, row in enumerate(rows) if not row.startswith("|"))])
    return [name for cell in column for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=TEXTS)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, link


@pytest.mark.parametrize("name", TEXTS)
def test_files_exist(name: str) -> None:
    for path in names_in(TEXTS[name], r"[\w./*-]+\.(py|toml|md|c|json)(:\w+)?"):
        pattern = path.partition(":")[0]
        places = (ROOT, ROOT / "pipeline", ROOT / "pipeline" / "kernels", ROOT / "pipeline" / "kernels" / "isa")
        assert re.fullmatch(WRITTEN, pattern) or any(list(place.glob(pattern)) for place in places), path


def options() -> Iterator[str]:
    for name in cli.list_commands(click.Context(cli)):
        command = importlib.import_module(f"pipeline.cli.{name}_command").command
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)


@pytest.mark.parametrize("name", TEXTS)
def test_options_exist(name: str) -> None:
    known = {*options(), *OTHERS_OPTIONS, "--help"}
    assert names_in(TEXTS[name], r"--[\w-]+") <= known


def test_every_target_is_described() -> None:
    assert sorted(table_below(TEXTS["targets.md"], "| name | runs on |")) == sorted(t.name for t in list_targets())


def test_every_instruction_set_is_named() -> None:
    assert set(instruction_sets()) - {"portable"} <= names_in(TEXTS["targets.md"].replace(",", " "), r"\w+")


def test_every_capability_is_described() -> None:
    described = table_below(TEXTS["kernels.md"], "| capability | kernels |")
    assert described == [capability.name for capability in reversed(Capability)]


def test_every_field_of_the_metadata_is_described() -> None:
    assert set(table_below(TEXTS["deploy.md"], "| field | type | meaning |")) == set(ArtifactMetadata.__struct_fields__)


def test_every_field_of_the_calibration_table_is_described() -> None:
    first, _, second = TEXTS["calibration-table.md"].partition("An entry describes")
    assert set(table_below(first, "| field | type | meaning |")) == set(CalibrationTable.__struct_fields__)
    second, _, third = second.partition("## Settings for a single tensor")
    assert set(table_below(second, "| field | type | meaning |")) == set(Calibrated.__struct_fields__)
    assert set(table_below(third, "| field | type | meaning |")) == set(QuantizationSpec.__struct_fields__)


def test_every_place_of_an_operator_is_named() -> None:
    places = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "pipeline").rglob("*.py")
        if re.search(r'QMultiply|qmultiply|"relax.multiply"', file.read_text(encoding="utf-8"))
    }
    assert places <= names_in(TEXTS["adding-an-operator.md"], r"[\w/]+\.py")
