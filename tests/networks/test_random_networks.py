"""Random networks give what their references give: to the bit where they compute in integers.

These are a few small ones; `python -m tests.networks --count 1000` checks as many as you like.
"""

from __future__ import annotations

import pytest

from tests.networks.check import check, ways
from tests.networks.generate import random_network
from tests.properties import chosen_seed, scaled

WAYS = ways()
FIRST = chosen_seed() or 0


@pytest.mark.parametrize(("seed", "way"), [(seed, WAYS[seed % len(WAYS)]) for seed in range(FIRST, FIRST + scaled(12))])
def test_a_random_network_is_computed_rightly(seed: int, way: str) -> None:
    checked = check(random_network(seed, steps=5), way)
    assert checked.exact + checked.close > 0


def test_the_networks_are_worth_checking() -> None:
    operators = {n.op_type for seed in range(100) for n in random_network(seed).model.graph.node}
    assert len(operators) > 35


def test_a_seed_gives_the_same_network_each_time() -> None:
    assert random_network(7).model == random_network(7).model
