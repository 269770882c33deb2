"""A frame around images."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.dialect.base import Attributes
from pipeline.dialect.types import TensorType


@dataclass(frozen=True)
class Pad(Attributes):
    """`nn.pad`: a frame of `value` around the pixels of x: [N,H,W,C], float32 or uint8.

    `padding` is (top, left, bottom, right). The compiler makes it from convolutions' padding, so that kernels never
    see an edge; a producer may write into the middle of the padded buffer instead.
    """

    name = "nn.pad"
    arguments = ("x",)

    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the padded type: [N,H+top+bottom,W+left+right,C], same dtype."""
        batch, height, width, channels = inputs[0].shape
        top, left, bottom, right = self.padding
        return TensorType((batch, height + top + bottom, width + left + right, channels), inputs[0].dtype)
