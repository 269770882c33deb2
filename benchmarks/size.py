"""How large libraries are, and what they consist of.

    python -m benchmarks.size [mobilenet_v2 text-direction model.onnx ...] [--target x86-64-v3 ...] [--json FILE]

A model's int8 weights can't be fewer; everything else that a library contains is counted against a limit of 300 KB:
biases, multipliers and tables, weights that are stored several times or padded, code, the virtual machine's program,
metadata, and what loading needs. Models are quantized with one sample, as sizes hardly depend on samples.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from elftools.elf.elffile import ELFFile
from rich.console import Console
from rich.table import Table

import pipeline
from benchmarks.networks import NETWORKS
from pipeline.ir.dataflow import Dataflow, constant
from pipeline.library.constants import CONSTANTS_SECTION, PACKED_SECTION
from pipeline.library.metadata import METADATA_SECTION
from pipeline.recipes import list_recipes, load_recipe, prepare

LIMIT = 300_000
"""Bytes that a library may have beside the model's int8 weights."""

TARGETS = ("x86-64-v3", "x86-64-v4-vnni", "android-arm64", "android-arm64-dotprod", "android-arm64-i8mm")
"""Targets by default: one for each way to multiply bytes."""

PARTS = {"code": ".text", "read-only data": ".rodata", "unwinding": ".eh_frame", "metadata": METADATA_SECTION}
"""Sections of a library beside its constants, by what they are called in the table."""


def load(model: str, folder: Path) -> pipeline.Program:
    """Return a network, a recipe's model or an ONNX file as a program."""
    if model in NETWORKS:
        return pipeline.load(NETWORKS[model].write(folder / "model.onnx"))
    if model in {recipe.name for recipe in list_recipes()}:
        prepared = prepare(load_recipe(model))
        return pipeline.load(prepared.model, prepared.shapes)
    return pipeline.load(model)


def weight_bytes(program: pipeline.Program) -> int:
    """Return how many int8 weights a quantized program has."""
    arguments = [a for b in Dataflow.of(program.module).bindings for a in getattr(b.value, "args", ())]
    values = [value for a in arguments if (value := constant(a)) is not None]
    return sum(value.nbytes for value in values if value.dtype == np.int8)


def parts(library: Path, weights: int) -> dict[str, int]:
    """Return the bytes of a library and of its parts.

    Args:
        library: the file.
        weights: its model's int8 weights.
    """
    with library.open("rb") as file:
        sizes = {section.name: section["sh_size"] for section in ELFFile(file).iter_sections()}
    total = library.stat().st_size
    found = {"library": total, "weights": weights, "beside": total - weights}
    found["constants"] = sizes[CONSTANTS_SECTION] + sizes[PACKED_SECTION] - weights
    found |= {part: sizes.get(section, 0) for part, section in PARTS.items()}
    found["rest"] = found["beside"] - found["constants"] - sum(found[part] for part in PARTS)
    return found


@click.command()
@click.argument("models", nargs=-1)
@click.option("--target", "targets", multiple=True, default=TARGETS, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the libraries in this folder.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
def main(models: tuple[str, ...], targets: tuple[str, ...], folder: Path | None, json_path: Path | None) -> None:
    """Build MODELS (networks of benchmarks.latency, recipes, ONNX files; by default all networks) and measure them."""
    table = Table("model", "target", *("library", "weights", "beside", "constants", *PARTS, "rest"))
    for column in table.columns[2:]:
        column.justify = "right"
    table.caption = f"KB; constants without the weights; red: more than {LIMIT // 1000} KB beside the weights"
    results: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) if folder is None else folder
        for model in models or NETWORKS:
            program = load(model, path)
            random = np.random.default_rng(0)
            sample = {i.name: random.standard_normal(i.shape).astype(i.dtype) for i in program.inputs}
            quantized = pipeline.quantize(program, [sample], effort="none")
            weights = weight_bytes(quantized.program)
            for target in targets:
                library = quantized.build(target, path / f"{program.name}.{target}.so")
                found = results.setdefault(model, {})[target] = parts(library, weights)
                cells = [f"{value / 1e3:.0f}" for value in found.values()]
                style = "red" if found["beside"] > LIMIT else None
                table.add_row(model, target, *cells, style=style)
                click.echo(f"{model} {target} {found}", err=True)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
