"""Every operator has a specification, a reference, a kernel with an example, and a quantization rule."""

from __future__ import annotations

import inspect

import pytest

from pipeline.kernels import registry
from pipeline.ops import Operator, operators
from pipeline.quantization.rules import rules
from tests.kernels.examples import examples

REWRITTEN = ("nn.conv2d_transpose", "qnn.conv2d_transpose")
"""Operators that the compiler expresses by others before it looks for kernels."""

FLOAT_ONLY = {
    "nn.layer_norm": "it has no integer form yet",
    "nn.conv2d_add": "only the compiler makes it",
    "nn.avg_pool2d": "only the compiler makes it",
    "nn.multiply": "only the compiler makes it",
    "nn.sort_order": "only the compiler makes it",
    "nn.stack": "only the compiler makes it",
    "nn.upsample_concat": "only the compiler makes it",
}
"""Float operators without a quantization rule, and why."""


def missing(operator: type[Operator]) -> list[str]:
    """Return what an operator lacks, and the file where it belongs."""
    computed = {entry.operator for entry in registry.KERNELS}
    shown = {type(example.operator) for example in examples().values()}
    name, rewritten, family = operator.name, operator.name in REWRITTEN, inspect.getfile(operator)
    found = {
        f"a docstring that begins with `{name}`: , in {family}": not (operator.__doc__ or "").startswith(f"`{name}`: "),
        f"`infer`, in {family}": operator.infer is Operator.infer,
        f"`evaluate`, in {family}": operator.evaluate is Operator.evaluate,
        "a kernel, in pipeline/kernels/registry.py": operator not in computed and not rewritten,
        "an example, in tests/kernels/examples.py": operator not in shown and not rewritten,
    }
    if name.startswith("nn.") and name not in FLOAT_ONLY:
        found["a quantization rule, in pipeline/quantization/rules"] = name not in rules()
    return [what for what, lacking in found.items() if lacking]


@pytest.mark.parametrize("name", sorted(operators()))
def test_every_operator_is_complete(name: str) -> None:
    assert missing(operators()[name]) == [], f"{name} needs these; see docs/adding-an-operator.md"


def test_what_is_missing_is_named_with_its_place() -> None:
    class Nothing(Operator):
        """Says nothing of itself."""

    # Unregister it, so that other tests don't see it.
    Nothing.name = "nn.nothing"
    found = missing(Nothing)
    for part in ("docstring", "`infer`", "`evaluate`", "a kernel", "an example", "a quantization rule"):
        assert any(what.startswith(part) or f" {part}" in what for what in found), part
    assert all(", in " in what for what in found)


def test_every_exception_is_one() -> None:
    known = operators()
    computed = {entry.operator.name for entry in registry.KERNELS}
    assert not computed & set(REWRITTEN)
    assert set(FLOAT_ONLY) <= set(known) - set(rules())
