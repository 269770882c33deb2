"""Checks many random networks, and keeps those that fail: `python -m tests.networks --count 1000 --seed 0`."""

from __future__ import annotations

import collections
import multiprocessing
import secrets
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import click
import onnx

from pipeline.errors import PipelineError
from tests.kernels.instruction_sets import runnable, runnable_names
from tests.networks.check import check
from tests.networks.generate import random_network

FAILURES = ("wrong", "crashed", "died", "hung")


@click.command()
@click.option("--count", default=100, show_default=True, help="How many networks.")
@click.option("--seed", type=int, help="Seed of the first one; the others' follow. Drawn by default.")
@click.option("--steps", type=int, help="How many steps each is grown by; drawn for each by default.")
@click.option("--isa", "isa_names", multiple=True, type=click.Choice(runnable_names()), help="By default all, in turn.")
@click.option("--seconds", default=600, show_default=True, help="After which a network counts as hung.")
@click.option("--output", type=click.Path(path_type=Path), default="out/networks", show_default=True)
@click.option("--verbose", is_flag=True, help="Print a line for those that pass, too.")
def main(
    count: int,
    seed: int | None,
    steps: int | None,
    isa_names: tuple[str, ...],
    seconds: int,
    output: Path,
    verbose: bool,
) -> None:
    """Check random networks; exit with 1 if one fails. Models of those that fail are kept in the folder OUTPUT."""
    output.mkdir(parents=True, exist_ok=True)
    first = secrets.randbelow(2**31) if seed is None else seed
    names = isa_names or runnable_names()
    click.echo(f"{count} networks from seed {first}, on {', '.join(names)}")
    tally: collections.Counter[str] = collections.Counter()
    checker = _Checker(seconds)
    for number in range(first, first + count):
        isa_name, start = names[number % len(names)], time.perf_counter()
        outcome, what = checker.check(number, steps, isa_name)
        tally[outcome] += 1
        if verbose or outcome != "right":
            click.echo(f"{number} {isa_name} {time.perf_counter() - start:.1f} s, {outcome}: {what}")
        if outcome in FAILURES:
            path = output / f"network{number}.onnx"
            onnx.save(random_network(number, steps).model, path)
            grown = f" --steps {steps}" if steps else ""
            click.echo(f"    {path}; again: python -m tests.networks --count 1 --seed {number} --isa {isa_name}{grown}")
    checker.close()
    click.echo(", ".join(f"{n} {outcome}" for outcome, n in sorted(tally.items())))
    if any(tally[failure] for failure in FAILURES):
        raise SystemExit(1)


class _Checker:
    """Checks networks in a process of their own, which is started anew after one has killed it or hangs.

    Args:
        seconds: after which a network counts as hung.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start()

    def check(self, seed: int, steps: int | None, isa_name: str) -> tuple[str, str]:
        """Return how it went, "right", "refused" or one of `FAILURES`, and more about it."""
        self._connection.send((seed, steps, isa_name))
        hung = not self._connection.poll(self._seconds)
        try:
            if not hung:
                outcome: tuple[str, str] = self._connection.recv()
                return outcome
        except EOFError:
            pass
        self.close()
        code = self._process.exitcode
        self._start()
        return ("hung", f"more than {self._seconds} s") if hung else ("died", f"exit code {code}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()


def _serve(connection: Connection) -> None:
    while True:
        seed, steps, isa_name = connection.recv()
        connection.send(_check(seed, steps, isa_name))


def _check(seed: int, steps: int | None, isa_name: str) -> tuple[str, str]:
    try:
        return "right", str(check(random_network(seed, steps), runnable(isa_name)))
    except PipelineError as error:
        return "refused", str(error)
    except AssertionError as error:
        return "wrong", str(error)
    except Exception:
        # Whatever it is, the next network is checked.
        return "crashed", traceback.format_exc()


if __name__ == "__main__":
    main()
