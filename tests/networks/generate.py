"""Random networks: a few steps, each from a tensor that there is, and ways of joining two."""

from __future__ import annotations

import numpy as np

from tests.networks.drawing import Drawing, Network
from tests.networks.steps import STEPS, Choice, convolution, plain_convolution

LARGEST = 200_000
"""Most values that a tensor may have: networks are to be quick."""

STRONGEST = 1e3
"""Largest magnitude: beyond, float32's rounding says more about a network than its meaning."""


def random_network(seed: int, steps: int | None = None) -> Network:
    """Return the network of a seed, with some 4 to 14 steps if no number of them is given."""
    d = Drawing(seed)
    growth = _Growth(d)
    if d.chance(0.6):
        growth.convolve()
    for _ in range(steps or d.integer(4, 14)):
        grow = growth.join if d.chance(0.25) else growth.step
        grow()
    return d.finish(growth.outputs())


class _Growth:
    """The tensors that steps may take, with the kind of each."""

    def __init__(self, d: Drawing) -> None:
        self._d = d
        self._kinds: dict[str, str] = {}
        self._unused: set[str] = set()
        batch = d.choose(1, 1, 1, 2, 3)
        kind = d.choose("image", "image", "image", "image", "sequence", "tokens", "vector")
        # Layers of the larger images are shared among threads.
        size = d.integer(33, 60) if d.chance(0.06) else d.integer(4, 16)
        shapes = {
            "image": (batch, d.choose(1, 3, 3, 4, 8, 17), size, d.choose(size, size, d.integer(4, 16))),
            "sequence": (batch, d.integer(1, 20), d.integer(4, 40)),
            "tokens": (batch, d.integer(2, 20), d.integer(2, 33)),
            "vector": (batch, d.integer(2, 60)),
        }
        for _ in range(d.choose(1, 1, 1, 2)):
            self._keep(d.input(*shapes[kind]), kind)

    def convolve(self) -> None:
        """Make a convolution of the last tensor, if it is of a kind that has them: most networks begin like this."""
        x = self._pick()
        if self._kinds[x] in ("image", "sequence"):
            self._take(x, Choice(self._kinds[x], 1, plain_convolution, self._kinds[x]))

    def step(self) -> None:
        """Take one tensor, of the last ones in most cases, and make something of it."""
        x = self._pick()
        choices = [c for c in STEPS if c.kind == self._kinds[x]]
        weights = np.array([c.weight for c in choices])
        self._take(x, choices[int(self._d.random.choice(len(choices), p=weights / weights.sum()))])

    def _take(self, x: str, choice: Choice) -> None:
        results = choice.step(self._d, x)
        if results:
            self._unused.discard(x)
        for result in results:
            self._keep(result, choice.result)

    def join(self) -> None:
        """Take two tensors of the same kind, which may be the same one, and make one of them."""
        d, a = self._d, self._pick()
        others = [t for t in self._kinds if self._kinds[t] == self._kinds[a] and self._axis_to_join(a, t) is not None]
        b = d.choose(*others)
        if d.chance(0.4):
            result = d.node("Concat", a, b, *([a] if d.chance(0.1) else []), axis=self._axis_to_join(a, b))
        else:
            b = self._as_large_as(a, b)
            result = d.node(d.choose("Add", "Add", "Add", "Mul", "Sub", "Max", "Min"), *d.choose((a, b), (b, a)))
        self._unused -= {a, b}
        self._keep(result, self._kinds[a])

    def outputs(self) -> list[str]:
        """Return the tensors that nobody took, and now and then one that somebody did."""
        d = self._d
        outputs = [t for t in self._kinds if t in self._unused]
        if d.chance(0.3):
            outputs.append(d.choose(*self._kinds))
        made = [t for t in dict.fromkeys(outputs) if not t.startswith("x")]
        return made or [d.node("Relu", next(iter(self._kinds)))]

    def _pick(self) -> str:
        names = list(self._kinds)
        return names[-1] if self._d.chance(0.6) else self._d.choose(*names)

    def _keep(self, name: str, kind: str) -> None:
        value = self._d.values[name]
        self._unused.add(name)
        if 1 <= value.size <= LARGEST and np.abs(value).max() <= STRONGEST:
            self._kinds[name] = kind

    def _axis_to_join(self, a: str, b: str) -> int | None:
        """Return the only axis in which two tensors differ, the channels if in none; None if there are more."""
        first, second = self._d.shape(a), self._d.shape(b)
        differing = [i for i, (m, n) in enumerate(zip(first, second, strict=True)) if m != n]
        if len(differing) > 1 or differing == [0]:
            return None
        return differing[0] if differing else self._d.choose(1, len(first) - 1)

    def _as_large_as(self, a: str, b: str) -> str:
        """Return b, with as many channels as a; where another axis differs, a itself."""
        d, kind = self._d, self._kinds[a]
        if d.shape(a) == d.shape(b):
            return b
        count = d.shape(a)[1]
        if kind in ("image", "sequence") and d.shape(a)[2:] == d.shape(b)[2:]:
            return convolution(d, b, count, (1,) * (len(d.shape(a)) - 2))
        return a
