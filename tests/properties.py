"""How many examples property tests try, and which: the same ones every time, or others.

Two environment variables choose:

- `PIPELINE_TEST_SEED`: unset, every run tries the same examples, so what passed once passes again. An integer, or
  `random`, tries others, and ten times as many.
- `PIPELINE_TEST_EXAMPLES`: by what the number of examples is multiplied instead.

The seed that was drawn is printed, and put into the variable, so that it holds for processes that tests start.
"""

from __future__ import annotations

import os
import secrets

from hypothesis import HealthCheck, settings

SEED_VARIABLE = "PIPELINE_TEST_SEED"
SCALE_VARIABLE = "PIPELINE_TEST_EXAMPLES"


def chosen_seed() -> int | None:
    """Return the seed of this run, or None if it tries the fixed examples; draw one if the variable says `random`."""
    text = os.environ.get(SEED_VARIABLE)
    if text == "random":
        text = os.environ[SEED_VARIABLE] = str(secrets.randbelow(2**32))
    return int(text) if text else None


def scale() -> float:
    """Return by what numbers of examples are multiplied."""
    return float(os.environ.get(SCALE_VARIABLE) or (1 if chosen_seed() is None else 10))


def scaled(count: int) -> int:
    """Return how many examples to try where `count` are tried by default; at least one."""
    return max(1, round(count * scale()))


def examples(count: int) -> settings:
    """Return settings for a property test that tries `count` examples by default."""
    return settings(max_examples=scaled(count))


def reproducer() -> str:
    """Return the variables that make another run try the same examples."""
    seed = chosen_seed()
    return f"{SCALE_VARIABLE}={scale():g}" if seed is None else f"{SEED_VARIABLE}={seed} {SCALE_VARIABLE}={scale():g}"


def load_profile() -> None:
    """Make the profile that the variables choose the default for all tests; call it before tests are imported."""
    common = {"max_examples": scaled(12), "deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("ci", derandomize=True, **common)
    settings.register_profile("long", derandomize=False, database=None, **common)
    settings.load_profile("ci" if chosen_seed() is None else "long")
