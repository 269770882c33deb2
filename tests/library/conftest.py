"""Fixtures of the runtime's tests, which these tests use as well."""

from tests.runtime.conftest import aarch64_python, library, library_for

__all__ = ["aarch64_python", "library", "library_for"]
