"""Checks many random networks, and keeps those that fail: `python -m tests.networks --count 1000 --seed 0`."""

from __future__ import annotations

import collections
import secrets
import time
from pathlib import Path

import click
import onnx

from tests.networks.check import ways
from tests.networks.checker import FAILURES, Checker
from tests.networks.generate import random_network


@click.command()
@click.option("--count", default=100, show_default=True, help="How many networks.")
@click.option("--seed", type=int, help="Seed of the first one; the others' follow. Drawn by default.")
@click.option("--steps", type=int, help="How many steps each is grown by; drawn for each by default.")
@click.option("--way", "names", multiple=True, type=click.Choice(ways()), help="To run it. By default all, in turn.")
@click.option("--seconds", default=600, show_default=True, help="After which a network counts as hung.")
@click.option("--output", type=click.Path(path_type=Path), default="out/networks", show_default=True)
@click.option("--verbose", is_flag=True, help="Print a line for those that pass, too.")
def main(
    count: int,
    seed: int | None,
    steps: int | None,
    names: tuple[str, ...],
    seconds: int,
    output: Path,
    verbose: bool,
) -> None:
    """Check random networks; exit with 1 if one fails. Models of those that fail are kept in the folder OUTPUT."""
    output.mkdir(parents=True, exist_ok=True)
    first = secrets.randbelow(2**31) if seed is None else seed
    names = names or ways()
    click.echo(f"{count} networks from seed {first}, on {', '.join(names)}")
    tally: collections.Counter[str] = collections.Counter()
    checker = Checker(seconds)
    for number in range(first, first + count):
        way, start = names[number % len(names)], time.perf_counter()
        outcome, what = checker.check(number, steps, way)
        tally[outcome] += 1
        if verbose or outcome != "right":
            click.echo(f"{number} {way} {time.perf_counter() - start:.1f} s, {outcome}: {what}")
        if outcome in FAILURES:
            path = output / f"network{number}.onnx"
            onnx.save(random_network(number, steps).model, path)
            grown = f" --steps {steps}" if steps else ""
            click.echo(f"    {path}; again: python -m tests.networks --count 1 --seed {number} --way {way}{grown}")
    checker.close()
    click.echo(", ".join(f"{n} {outcome}" for outcome, n in sorted(tally.items())))
    if any(tally[failure] for failure in FAILURES):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
