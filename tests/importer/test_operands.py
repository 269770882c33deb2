"""Operands that don't fit each other are refused, by an error that names the node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.importer.normalize.operands import Shape, operand_mismatch
from tests.models import ModelBuilder, import_test_model


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes"),
    [
        ("Conv", [(1, 4, 8, 8), (6, 4, 3, 3), (6,)], {}),
        ("Conv", [(1, 4, 8), (6, 2, 3)], {"group": 2}),
        ("ConvTranspose", [(1, 4, 8, 8), (4, 6, 3, 3), (6,)], {}),
        ("ConvTranspose", [(1, 4, 8, 8), (4, 3, 3, 3), (6,)], {"group": 2}),
        ("Gemm", [(2, 3), (3, 5), (5,)], {}),
        ("Gemm", [(3, 2), (5, 3), (2, 1)], {"transA": 1, "transB": 1}),
        ("Gemm", [(2, 3), (3, 5), ()], {}),
        ("BatchNormalization", [(1, 4, 5), *[(4,)] * 4], {}),
        ("BatchNormalization", [(7,), *[(1,)] * 4], {}),
        ("InstanceNormalization", [(1, 4, 5), (4,), (4,)], {}),
        ("LayerNormalization", [(2, 4, 8), (1, 8), ()], {}),
        ("PRelu", [(1, 4, 5, 5), (4, 1, 1)], {}),
        ("Conv", [(1, 4, 8, 8), (6, 4, 3, 3)], {"kernel_shape": [3, 3], "pads": [9, 9, 9, 9]}),
        ("MaxPool", [(1, 4, 8, 8)], {"kernel_shape": [2, 2], "dilations": [3, 3], "pads": [3, 3, 3, 3]}),
        ("GroupNormalization", [(1, 6, 5, 5), (6,), (6,)], {"num_groups": 3}),
        ("Clip", [(1, 4), None, (1,)], {}),
        ("LSTM", [(5, 2, 3), (1, 16, 3), (1, 16, 4), (1, 32), None, (1, 2, 4), (1, 2, 4), (1, 12)], {}),
        ("GRU", [(2, 5, 3), (2, 12, 3), (2, 12, 4)], {"direction": b"bidirectional", "layout": 1}),
        ("RNN", [(5, 2, 3), (1, 4, 3), (1, 4, 4)], {"activations": [b"Relu"], "hidden_size": 4}),
        ("Relu", [(1,)], {}),
    ],
)
def test_operands_that_fit(op_type: str, shapes: list[Shape | None], attributes: dict[str, Any]) -> None:
    assert operand_mismatch(op_type, shapes, attributes) is None


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "said"),
    [
        (
            "Conv",
            [(1, 4, 8, 8), (6, 3, 3, 3)],
            {},
            "4 channels in 1 groups don't fit a weight of 6 outputs and 3 inputs",
        ),
        ("Conv", [(1, 4, 8, 8), (5, 2, 3, 3)], {"group": 2}, "5 outputs"),
        ("Conv", [(1, 4, 8, 8), (6, 4, 3, 3)], {"group": 0}, "in 0 groups"),
        ("Conv", [(1, 4, 8, 8), (6, 4, 3, 3), (5,)], {}, "bias must have the shape [6]"),
        ("Conv", [(1, 4, 8, 8), (6, 4, 3)], {}, "the same number of dimensions"),
        ("ConvTranspose", [(1, 4, 8, 8), (6, 4, 3, 3)], {}, "don't fit a weight of 6 inputs"),
        ("ConvTranspose", [(1, 4, 8, 8), (4, 3, 3, 3), (3,)], {"group": 2}, "bias must have the shape [6]"),
        ("Gemm", [(2, 3), (5, 3)], {}, "A has 3 columns, but B has 5 rows"),
        ("Gemm", [(2, 3), (3, 5), (2,)], {}, "C can't be broadcast to [2, 5]"),
        ("Gemm", [(1, 2, 3), (3, 5)], {}, "A and B must be matrices"),
        ("BatchNormalization", [(1, 4, 5), (4,), (4,), (5,), (4,)], {}, "input 3 must have the shape [4]"),
        ("InstanceNormalization", [(1, 4, 5), (4,), (1,)], {}, "input 2 must have the shape [4]"),
        ("LayerNormalization", [(2, 4, 8), (7,)], {}, "the scale or the bias can't be broadcast to the input"),
        ("PRelu", [(1, 4, 5, 5), (4,)], {}, "the slope can't be broadcast to the input"),
        (
            "Conv",
            [(1, 4, 8, 8), (6, 4, 3, 3)],
            {"kernel_shape": [5, 5]},
            "kernel_shape is [5, 5], but the weight has [3, 3]",
        ),
        ("Conv", [(1, 4, 8, 8), (6, 4, 3, 3)], {"pads": [99999] * 4}, "its padded input takes"),
        (
            "Conv",
            [(1, 4, 8, 8), (6, 4, 3, 3)],
            {"auto_pad": b"SAME_UPPER", "dilations": [2**30, 2**30]},
            "its padded input takes",
        ),
        ("AveragePool", [(1, 4, 8, 8)], {"kernel_shape": [2, 2], "pads": [0, 0, 0, 2]}, "as wide as a window"),
        ("Clip", [(1, 4), (), (4,)], {}, "its limits must be single numbers"),
        ("GroupNormalization", [(1, 6, 5, 5), (6,), (6,)], {"num_groups": 4}, "divided into 4 groups"),
        ("GroupNormalization", [(1, 6, 5, 5), (6,), (6,)], {"num_groups": 0}, "divided into 0 groups"),
        ("LSTM", [(5, 2, 3), (1, 15, 3), (1, 16, 4)], {}, "its weight must have the shape [1, 16, 3]"),
        ("GRU", [(5, 2, 3), (1, 12, 3), (1, 12, 4)], {"direction": b"bidirectional"}, "must have the shape [2, 12, 3]"),
        ("GRU", [(5, 2, 3), (1, 12, 3), (1, 12, 4), None, None, (2, 2, 4)], {}, "its initial state must have"),
        ("RNN", [(5, 2, 3), (1, 4, 3), (1, 4, 4)], {"direction": b"sideways"}, "no direction 'sideways'"),
        ("LSTM", [(5, 2, 3), (1, 16, 3), (1, 16, 4)], {"activations": [b"Tanh"]}, "1 activations; expected 3"),
        ("RNN", [(5, 2, 3), (1, 4, 3), (1, 4, 4)], {"hidden_size": 3}, "hidden_size is 3"),
    ],
)
def test_operands_that_do_not_fit(
    op_type: str, shapes: list[Shape | None], attributes: dict[str, Any], said: str
) -> None:
    assert said in str(operand_mismatch(op_type, shapes, attributes))


def test_a_model_whose_operands_do_not_fit_is_refused_by_the_nodes_name() -> None:
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(np.ones((2, 4, 1, 1), "float32")), name="y")
    with pytest.raises(
        ModelError, match=r"Conv 'y' doesn't fit its inputs \(x float\[1, 3, 5, 5\], .*: 3 channels in 1"
    ):
        import_test_model(b.model({"x": (1, 3, 5, 5)}, y))
