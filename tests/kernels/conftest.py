"""Settings and parameters that all kernel tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "kernels", max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kernels")


@pytest.fixture(params=["portable", "sse41", "avx2", "avx_vnni", "avx512", "avx512_vnni"], scope="session")
def isa_name(request: pytest.FixtureRequest) -> str:
    """Every x86 instruction set; `run_kernel` skips the test where this CPU lacks it."""
    return str(request.param)
