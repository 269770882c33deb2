"""The same libraries as the runtime's tests have."""

from tests.runtime.conftest import aarch64_python, library, library_for

__all__ = ["aarch64_python", "library", "library_for"]
