"""What holds for all tests."""

from __future__ import annotations

import os

import pytest

from tests import properties

_SKIPS: list[str] = []

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
        _SKIPS.append(f"{report.nodeid}: {report.longrepr[2]}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With PIPELINE_NO_SKIPS set, as in CI, a test that was skipped for want of a tool is a failure.

    What the CPU lacks can't be installed; such skips remain.
    """
    missing = [s for s in _SKIPS if "CPU" not in s]
    if os.environ.get("PIPELINE_NO_SKIPS") and missing:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if properties.chosen_seed() is not None:
        terminalreporter.write_line(f"Property tests tried what {properties.reproducer()} gives.")
    missing = [s for s in _SKIPS if "CPU" not in s]
    if os.environ.get("PIPELINE_NO_SKIPS") and missing:
        terminalreporter.section("skipped, though nothing may be", red=True)
        terminalreporter.write_line("\n".join(missing))
