"""Random networks of convolutions, sums, pooling and concatenations, in which operators read any earlier results.

All tensors have the same number of channels and one of two sizes, so that most operators can be fused, and many in
several ways.
"""

from __future__ import annotations

import numpy as np
import onnx

from tests.models import ModelBuilder

CHANNELS = 8
SIZE = 8


class _FusionNetwork(ModelBuilder):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.batch = int(self.random.integers(1, 4))
        self.inputs = int(self.random.choice([1, 3, CHANNELS]))
        # The factor by which each tensor is smaller than the image.
        self.steps: dict[str, int] = {}

    def choose(self, *values: int) -> int:
        return int(self.random.choice(values))

    def conv(self, x: str, stride: int = 1, channels: int = CHANNELS, depthwise: bool = False) -> str:
        kernel, group = self.choose(1, 3, 3, 3), CHANNELS if depthwise else 1
        shape = (CHANNELS, channels // group, kernel, kernel)
        weight, bias = self.random.standard_normal(shape) / kernel, self.random.standard_normal(CHANNELS)
        inputs = [self.constant(value.astype("float32")) for value in (weight, bias)]
        return self.node("Conv", x, *inputs, pads=[kernel // 2] * 4, strides=[stride, stride], group=group)

    def any_of(self, step: int | None = None) -> str:
        """Return a tensor, of the last ones in most cases."""
        names = [name for name, its in self.steps.items() if step in (None, its)]
        return names[-self.choose(1, 2, 2, 3, 3, 4) % len(names)]

    def grow(self) -> None:
        x = self.any_of()
        step = self.steps[x]
        grown = {
            "convolution": lambda: self.conv(x),
            "depthwise": lambda: self.conv(x, depthwise=True),
            "sum": lambda: self.node("Add", x, self.any_of(step)),
            "sum of a convolution": lambda: self.node("Add", self.conv(x), self.any_of(step)),
            "product": lambda: self.node("Mul", x, self.any_of(step)),
            "joined": lambda: self.conv(self.node("Concat", x, self.any_of(step), axis=1), channels=2 * CHANNELS),
            "pooled": lambda: self.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
            "function of a convolution": lambda: self.node(("HardSwish", "Sigmoid")[self.choose(0, 1)], self.conv(x)),
            "resized": lambda: self.resized(x, step),
        }
        kinds = tuple(grown)
        weights = np.array([4, 1, 1, 5, 1, 1, 1, 3, 2])
        name = grown[kinds[self.random.choice(len(kinds), p=weights / weights.sum())]]()
        self.steps.setdefault(name, step)

    def resized(self, x: str, step: int) -> str:
        if step == 0:
            y = self.conv(x, stride=2)
        else:
            scales = self.constant(np.array([1, 1, 2, 2], "float32"))
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            y = self.node("Resize", x, "", scales, **how)
        self.steps[y] = 1 - step
        return y

    def network(self, length: int) -> onnx.ModelProto:
        x = self.conv("x", stride=2, channels=self.inputs)
        self.steps[x] = 0
        for _ in range(length):
            self.grow()
        used = {name for node in self.nodes for name in node.input}
        outputs = [name for name in self.steps if name not in used]
        return self.model({"x": [self.batch, self.inputs, 2 * SIZE, 2 * SIZE]}, *outputs)


def random_fusion_network(seed: int, length: int = 12) -> onnx.ModelProto:
    """Return a network with the input x: [N,C,16,16]. Its outputs are all results that no operator reads.

    Args:
        seed: which network; each seed has another one.
        length: number of steps, each of which adds an operator or a few.
    """
    return _FusionNetwork(seed).network(length)
