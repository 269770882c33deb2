"""Parameters that all kernel tests share."""

from __future__ import annotations

import pytest

from tests.kernels.instruction_sets import distinct

PRODUCTS = distinct(
    lambda isa: (isa.lanes, isa.registers, isa.dot_depth, isa.weight_dtype, type(isa).dot, isa.pixels_together)
)
"""All that distinguishes instruction sets in kernels that multiply matrices."""


@pytest.fixture(params=PRODUCTS, scope="session")
def isa_name(request: pytest.FixtureRequest) -> str:
    """Every instruction set of this architecture; `run_kernel` skips the test where this machine can't run it."""
    return str(request.param)
