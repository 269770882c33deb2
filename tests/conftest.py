"""Hooks for all tests: the seed of property tests, and a summary of skips."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import pytest

from tests import properties


@dataclass(frozen=True)
class _Skip:
    test: str
    reason: str


_SKIPS: list[_Skip] = []

properties.load_profile()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give Hypothesis the seed, in the option that its own plugin reads after this."""
    seed = properties.chosen_seed()
    if seed is not None:
        config.option.hypothesis_seed = str(seed)


def pytest_report_header() -> str:
    return f"property tests: {properties.reproducer()}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _SKIPS.append(_Skip(report.nodeid, report.longrepr[2].removeprefix("Skipped: ")))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With PIPELINE_NO_SKIPS set, as in CI, let the run fail if a test was skipped because a tool isn't installed.

    Tests that need features of another CPU may be skipped.
    """
    if os.environ.get("PIPELINE_NO_SKIPS") and _avoidable():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if properties.chosen_seed() is not None:
        terminalreporter.write_line(f"Property tests tried what {properties.reproducer()} gives.")
    if _SKIPS:
        terminalreporter.section("skips by reason")
        for reason, count in Counter(s.reason for s in _SKIPS).most_common():
            terminalreporter.write_line(f"{count:5d}  {reason}")
    if os.environ.get("PIPELINE_NO_SKIPS") and _avoidable():
        terminalreporter.section("skipped, though nothing may be", red=True)
        terminalreporter.write_line("\n".join(f"{s.test}: {s.reason}" for s in _avoidable()))


def _avoidable() -> list[_Skip]:
    """Return the skips that installing a tool would have avoided: all but those that need another CPU."""
    return [s for s in _SKIPS if "CPU" not in s.reason]
