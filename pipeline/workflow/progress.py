"""`Progress`, by which functions that take long report what they are doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, "int | None"], Any]
"""A function that is called with what is being done, how many steps of that (such as batches) are done, and how many
steps there are, or None if that isn't known. `print` may be used.
"""
