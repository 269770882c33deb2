"""What all kernel tests share: instruction sets, and how their checks are made."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import Any

import pytest

from tests.kernels.harness import collected_checks
from tests.kernels.instruction_sets import distinct

PRODUCTS = distinct(
    lambda isa: (isa.lanes, isa.registers, isa.dot_depth, isa.weight_dtype, type(isa).dot, isa.pixels_together)
)
"""All that distinguishes instruction sets in kernels that multiply matrices."""


@pytest.fixture(params=PRODUCTS, scope="session")
def isa_name(request: pytest.FixtureRequest) -> str:
    """Every instruction set; the test is skipped where this machine can't run it."""
    return str(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Make a test's checks together at its end; see harness.py."""
    with collected_checks() as checks:
        result = yield
    try:
        checks.make()
    except AssertionError as error:
        failure = error
    else:
        return result
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    pyfuncitem.obj(**arguments)
    raise AssertionError("No check of this test fails by itself, only kernels that are compiled together.") from failure
