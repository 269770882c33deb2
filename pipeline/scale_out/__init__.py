"""Runs programs over samples in this process, or in the workers of a Dask cluster; what is computed is the same.

An `Engine` takes work, the programs that it runs, and items, such as samples or blocks of them. It returns the results
in the items' order, whichever worker they come from, and reads items only as fast as they are done. What results mean,
and how they are put together, is known to those who define the work: calibration, sensitivity, comparison.

This machine compiles the programs, for its own instruction set, and sends machine code: so float results don't depend
on the worker (`compiler.portable`).
"""

from __future__ import annotations

from pipeline.scale_out.engine import Engine, Run, ThisProcess, Watched, Work
from pipeline.scale_out.opening import engine_for

__all__ = ["Engine", "Run", "ThisProcess", "Watched", "Work", "engine_for"]
