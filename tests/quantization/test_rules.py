"""The table of quantization rules."""

from __future__ import annotations

import pytest

from pipeline import ops
from pipeline.quantization.rules import kinds, rules
from pipeline.quantization.rules.rule import quantization_rule


def test_types_are_those_of_all_rules() -> None:
    found = kinds()
    assert list(found) == sorted(set(found))
    assert {"conv2d", "depthwise_conv2d", "multiply", "reshape"} <= set(found)
    assert {rule.kind for rule in rules().values()} <= set(found)


def test_an_operator_has_one_rule() -> None:
    with pytest.raises(TypeError, match=r"nn\.conv2d has two quantization rules"):
        quantization_rule(ops.Conv2d, kind="other")(lambda binding, _: binding.value)
    assert rules()["nn.conv2d"].kind == "conv2d"


def test_rules_are_for_operators_that_there_are() -> None:
    assert {name for name in rules() if name.startswith("nn.")} <= set(ops.operators())
