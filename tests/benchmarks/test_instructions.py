"""Instructions of arm64 have the classes that tables of counts show."""

from __future__ import annotations

import pytest

from benchmarks.arm64.instructions import CLASSES, by_class, class_of, on_stack


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sdot v10.4s, v5.16b, v2.4b[1]", "dot"),
        ("usdot v10.4s, v5.16b, v2.16b", "dot"),
        ("usmmla v0.4s, v1.16b, v2.16b", "matrix"),
        ("smlal2 v0.4s, v1.8h, v2.h[3]", "integer multiply"),
        ("umull v0.8h, v1.8b, v2.8b", "integer multiply"),
        ("mla v0.8h, v1.8h, v2.8h", "integer multiply"),
        ("sqrdmulh v0.4s, v1.4s, v2.4s", "integer multiply"),
        ("fmla v0.4s, v1.4s, v2.s[0]", "float multiply"),
        ("fmul v0.4s, v1.4s, v2.4s", "float multiply"),
        ("fmadd s0, s1, s2, s3", "float multiply"),
        ("ldp q0, q1, [x8], #32", "vector load"),
        ("ld1r { v0.4s }, [x8]", "vector load"),
        ("stp d8, d9, [sp, #16]", "vector store"),
        ("sadalp v0.4s, v1.8h", "other vector"),
        ("fcvtns v0.4s, v0.4s", "other vector"),
        ("ldrb w9, [x1, x2]", "load"),
        ("str x30, [sp, #48]", "store"),
        ("b.ne #-64", "branch"),
        ("cbnz x8, #16", "branch"),
        ("madd x0, x1, x2, x3", "scalar"),
        ("add x8, x8, #16", "scalar"),
        ("bic x8, x8, #0xf", "scalar"),
    ],
)
def test_an_instruction_has_a_class(text: str, expected: str) -> None:
    assert class_of(text) == expected


def test_classes_are_counted_in_the_order_of_tables() -> None:
    counts = by_class({1: 3, 2: 4, 3: 5}, {1: "ret", 2: "sdot v1.4s, v2.16b, v3.16b", 3: "b #8"})
    assert list(counts) == list(CLASSES)
    assert {name: count for name, count in counts.items() if count} == {"dot": 4, "branch": 8}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("str q0, [sp, #32]", True),
        ("ldp q0, q1, [sp]", True),
        ("ldr q0, [x8, #32]", False),
        ("stp x29, x30, [sp, #-16]!", False),
        ("add x8, sp, #32", False),
    ],
)
def test_vectors_on_the_stack_are_told_apart(text: str, expected: bool) -> None:
    assert on_stack(text) is expected
