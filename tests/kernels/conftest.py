"""Settings and parameters that all kernel tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.kernels.instruction_sets import distinct

settings.register_profile(
    "kernels", max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kernels")


PRODUCTS = distinct(
    lambda isa: (isa.lanes, isa.registers, isa.dot_depth, isa.weight_dtype, type(isa).dot, isa.pixels_together)
)
"""All that distinguishes instruction sets in kernels that multiply matrices."""


@pytest.fixture(params=PRODUCTS, scope="session")
def isa_name(request: pytest.FixtureRequest) -> str:
    """Every instruction set of this architecture; `run_kernel` skips the test where this machine can't run it."""
    return str(request.param)
