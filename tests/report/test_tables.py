"""Tables for people: what they show, and in which order."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console
from rich.table import Table

from pipeline.profiling import OperatorProfile, Profile
from pipeline.profiling.limits import Limits
from pipeline.report.profile_tables import ALL_COLUMNS_WIDTH, ORDERS, profile_tables

OPERATOR = OperatorProfile(
    name="first",
    operator="qnn.conv2d",
    kernel="conv2d_u8s8",
    shape=(1, 8, 8, 16),
    dtype="uint8",
    minimum_us=10.0,
    median_us=12.0,
    share=0.25,
    multiply_adds=1000,
    gmac_per_second=0.1,
    of_peak=0.5,
    bytes=4000,
    gbyte_per_second=0.4,
    of_limit=0.9,
    note="",
)
SLOW = dataclasses.replace(
    OPERATOR, name="second", minimum_us=20.0, multiply_adds=0, of_limit=0.99, note="Computed in float32."
)
FAR = dataclasses.replace(OPERATOR, name="third", minimum_us=15.0, of_limit=0.1)
PROFILE = Profile(
    model="model",
    kind="int8",
    target="x86-64-v3",
    threads=1,
    repeats=3,
    limits=Limits(2e11, 1e11, ((8192, 5e10),)),
    run_minimum_us=50.0,
    run_median_us=60.0,
    operators_minimum_us=45.0,
    operators_median_us=47.0,
    overhead=0.1,
    operators=(OPERATOR, SLOW, FAR),
)


def cells(table: Table, column: int) -> list[str]:
    return [str(cell) for cell in table.columns[column].cells]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("order", ["first", "second", "third"]),
        ("time", ["second", "third", "first"]),
        ("limit", ["third", "first", "second"]),
    ],
)
def test_operators_are_sorted(order: str, names: list[str]) -> None:
    assert cells(profile_tables(PROFILE, order, 80)[0], 0) == names
    assert order in ORDERS


@pytest.mark.parametrize(("width", "kernels"), [(ALL_COLUMNS_WIDTH, True), (ALL_COLUMNS_WIDTH - 1, False)])
def test_a_wide_terminal_shows_kernels(width: int, kernels: bool) -> None:
    text = io.StringIO()
    Console(file=text, width=width).print(profile_tables(PROFILE, "order", width)[0])
    assert ("conv2d_u8s8" in text.getvalue()) is kernels


def test_remarks_have_a_table_of_their_own() -> None:
    _, totals, remarks = profile_tables(PROFILE, "order", 80)
    assert cells(totals, 0)[:2] == ["run", "operators"]
    assert (cells(remarks, 0), cells(remarks, 1)) == (["second"], ["Computed in float32."])
    assert len(profile_tables(dataclasses.replace(PROFILE, operators=(OPERATOR,)), "order", 80)) == 2
