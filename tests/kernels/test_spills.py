"""Hot loops of products keep all they work with in registers: read from the assembly, for every target."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.kernels.isa import instruction_set
from pipeline.targets import Target, list_targets, load_target
from tests.kernels.convolutions import Convolution
from tests.kernels.harness import assembly, generate, make_operation

LAYERS = {
    "3x3": Convolution(1, 16, 16, 256, 256, (3, 3)),
    "3x3, few inputs": Convolution(1, 30, 30, 32, 64, (3, 3)),
    "1x1": Convolution(1, 14, 14, 512, 512),
    "1x1, long lines": Convolution(1, 56, 56, 128, 128),
    "1x1, odd channels": Convolution(1, 28, 28, 72, 40),
    "expanding": Convolution(1, 14, 14, 96, 576),
    "dense": Convolution(1, 1, 1, 1024, 1000),
    "with a tail": Convolution(1, 7, 7, 512, 336),
}

PRODUCTS = re.compile(r"\s+(\{vex\}\s+)?(v?(pmaddubsw|pmaddwd|pdpbusd|pdpwssd)|sdot|sudot|usdot|usmmla|smull|smlal)\s")

SPILL = re.compile(
    r"\s+(v?mov\w+\s+(-?\d*\(%rsp\), %[xyz]mm\d+|%[xyz]mm\d+, -?\d*\(%rsp\))|(ld|st)[rp]\s+q\d+, (q\d+, )?\[sp[],].*)"
)
"""A vector at a constant place on the stack; arranged activations are on the stack, too, at places that vary."""

JUMP = re.compile(r"\s+(j\w+\s+|b(\.\w+)?\s+|cbn?z\s+\w+, |tbn?z\s+\w+, #\d+, )(\.L\w+)")

TARGETS = [t.name for t in list_targets() if t.name != "host" and not t.name.endswith("-amx")]
"""Matrix registers aren't spilled; what they don't compute is as on AVX512-VBMI."""

UNROLLED = {("x86-64-v3-vnni", "expanding")}
"""Known to spill."""

MIN_PRODUCTS = 4
"""Fewer dot products aren't a step of a reduction."""


def loops(text: str) -> Iterator[list[str]]:
    """Yield the lines of innermost loops, from a label to the last jump back to it."""
    lines = text.splitlines()
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"(\.L\w+):", line))}
    ends: dict[int, int] = {}
    for i, line in enumerate(lines):
        jump = JUMP.match(line)
        if jump and labels.get(jump[3], i) < i:
            ends[labels[jump[3]]] = i
    for first, last in ends.items():
        if not any(first < other and end <= last for other, end in ends.items()):
            yield lines[first : last + 1]


def spills(text: str) -> list[str]:
    """Return the instructions of innermost loops of products that store vectors on the stack, or load them back."""
    hot = [loop for loop in loops(text) if sum(bool(PRODUCTS.match(line)) for line in loop) >= MIN_PRODUCTS]
    assert hot
    return [line.strip() for loop in hot for line in loop if SPILL.match(line)]


@pytest.mark.parametrize(
    ("product", "spilled", "others", "jump"),
    [
        (
            "vpmaddubsw\t%ymm1, %ymm2, %ymm3",
            ["vmovdqu\t%ymm4, 32(%rsp)", "vmovdqa\t(%rsp), %ymm4"],
            ["vmovdqa\t32(%rsp,%rax), %ymm4"],
            "jne\t.LBB0_1",
        ),
        (
            "sdot\tv0.4s, v1.16b, v2.4b[0]",
            ["str\tq0, [sp, #32]", "ldr\tq0, [sp]", "stp\tq0, q1, [sp, #64]", "ldp\tq0, q1, [sp]"],
            ["ldr\tq0, [x1]", "ldp\tq0, q1, [x2, #-32]", "ldr\tx1, [sp, #8]"],
            "cbnz\tx3, .LBB0_1",
        ),
    ],
    ids=["x86", "arm64"],
)
def test_spills_are_found(product: str, spilled: list[str], others: list[str], jump: str) -> None:
    lines = [spilled[0], *[product] * MIN_PRODUCTS, *spilled, *others, jump, spilled[1]]
    text = "\n".join(f"\t{line}" for line in lines)
    assert spills(text.replace(f"\t{product}", f".LBB0_1:\n\t{product}", 1)) == spilled


def generated(target: Target, layer: str, stored: str) -> str:
    """Return the assembly of a layer's kernel, whose activations are uint8 or int16."""
    operator, (x, weight, bias, multiplier) = LAYERS[layer].integer(seed=0)
    # Distributed as weights of networks, of which most can be paired.
    weight = np.clip(np.rint(np.random.default_rng(0).normal(0, 35, weight.shape)), -127, 127).astype("int8")
    operation = make_operation(operator, x.astype(stored), weight, bias, multiplier)
    return assembly(generate(operation, instruction_set(target.instruction_set)), target.tvm_target())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("target_name", TARGETS)
def test_no_spills(target_name: str, layer: str, request: pytest.FixtureRequest) -> None:
    if (target_name, layer) in UNROLLED:
        reason = "LLVM unrolls all 24 steps of 12 dot products, and loads weights of later ones too early"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    assert spills(generated(load_target(target_name), layer, "uint8")) == []


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("target_name", [name for name in TARGETS if "arm64" in name])
def test_no_spills_with_16_bits(target_name: str, layer: str) -> None:
    assert spills(generated(load_target(target_name), layer, "int16")) == []
