"""Checks many random networks, and keeps those that fail: `python -m tests.networks --count 1000 --seed 0`."""

from __future__ import annotations

import collections
import faulthandler
import secrets
import time
import traceback
from pathlib import Path

import click
import onnx

from pipeline.errors import PipelineError
from tests.kernels.instruction_sets import runnable, runnable_names
from tests.networks.check import check
from tests.networks.generate import random_network


@click.command()
@click.option("--count", default=100, show_default=True, help="How many networks.")
@click.option("--seed", type=int, help="Seed of the first one; the others' follow. Drawn by default.")
@click.option("--steps", type=int, help="How many steps each is grown by; drawn for each by default.")
@click.option("--isa", "isa_names", multiple=True, type=click.Choice(runnable_names()), help="By default all, in turn.")
@click.option("--output", type=click.Path(path_type=Path), default="out/networks", show_default=True)
@click.option("--verbose", is_flag=True, help="Print a line for those that pass, too.")
def main(
    count: int, seed: int | None, steps: int | None, isa_names: tuple[str, ...], output: Path, verbose: bool
) -> None:
    """Check random networks; exit with 1 if one fails. Models of those that fail are kept in the folder OUTPUT."""
    faulthandler.enable()
    output.mkdir(parents=True, exist_ok=True)
    first = secrets.randbelow(2**31) if seed is None else seed
    names = isa_names or runnable_names()
    click.echo(f"{count} networks from seed {first}, on {', '.join(names)}")
    tally: collections.Counter[str] = collections.Counter()
    for number in range(first, first + count):
        outcome = _check(number, steps, names[number % len(names)], output, verbose)
        tally[outcome] += 1
    click.echo(", ".join(f"{n} {outcome}" for outcome, n in sorted(tally.items())))
    if tally["wrong"] or tally["crashed"]:
        raise SystemExit(1)


def _check(seed: int, steps: int | None, isa_name: str, output: Path, verbose: bool) -> str:
    """Check one network; return how it went, and say so unless it passed."""
    network, path, start = random_network(seed, steps), output / f"network{seed}.onnx", time.perf_counter()
    # The file is there before anything runs: it is what a signal leaves.
    onnx.save(network.model, path)
    again = f"python -m tests.networks --count 1 --seed {seed} --isa {isa_name}" + (f" --steps {steps}" * bool(steps))
    try:
        checked = check(network, runnable(isa_name))
    except PipelineError as error:
        click.echo(f"refused: {error}\n    {again}")
        path.unlink()
        return "refused"
    except Exception as error:
        # Whatever it is, the next network is checked.
        outcome = "wrong" if isinstance(error, AssertionError) else "crashed"
        click.echo(f"{outcome}: {error}\n    {again}, {path}")
        path.with_suffix(".txt").write_text(traceback.format_exc(), encoding="utf-8")
        return outcome
    path.unlink()
    if verbose:
        click.echo(f"{seed} {isa_name} {time.perf_counter() - start:.1f} s {checked}")
    return "right"


if __name__ == "__main__":
    main()
