"""Runs the tests that need a GPU, and counts their outcomes as they come.

    python -m mixer_plugin.benchmarks.gpu.own_tests --device cuda --out tests.json

From a source tree: every file of tests in which ``pytest.mark.gpu`` stands. No ``conftest.py`` is
read, so that pytest is the only package they need beside those of the plug-in. On a CPU all of them
are skipped. Ends with status 1 if a test fails, if none is found, or if none passes on a GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mixer_plugin
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.errors import MissingExtraError
from mixer_plugin.io.console import run_command

ROOT = Path(mixer_plugin.__file__).resolve().parents[1]
_OPTIONS = (
    *("-q", "-m", "gpu", "-p", "no:cacheprovider"),
    *("--noconftest", "--continue-on-collection-errors"),
)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    options = harness.parse(harness.speed_parser(__doc__, None), arguments)
    try:
        import pytest
    except ImportError as error:
        raise MissingExtraError("pytest", "dev", "Running the tests") from error
    outcomes = Outcomes(options.out)
    files = [str(path) for path in test_files(ROOT / "tests")]
    status = int(pytest.main([*_OPTIONS, f"--rootdir={ROOT}", *files], plugins=[outcomes]))
    outcomes.write()
    found = outcomes.tests
    counted = found["passed"] if options.device == "cuda" else sum(found.values())
    return int(status != 0 or counted == 0)


def test_files(folder: Path) -> list[Path]:
    """The files below a folder that mark tests as needing a GPU, sorted."""
    named = sorted(folder.rglob("test_*.py"))
    return [path for path in named if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


class Outcomes:
    """A pytest plugin that writes how many tests passed, failed and were skipped.

    Attributes:
        tests: their number by outcome; ``failed`` counts errors too.
    """

    def __init__(self, out: Path | None) -> None:
        self.tests = {"passed": 0, "failed": 0, "skipped": 0}
        self._out, self._failures = out, dict[str, str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Counts a test when it is done, or as soon as its preparation skips it or fails."""
        if report.when != "call" and report.passed:
            return
        self.tests[report.outcome] += 1
        if report.failed:
            self._failures[report.nodeid] = str(report.longrepr)[-1000:]
        self.write()

    def pytest_collectreport(self, report: Any) -> None:
        """Counts a file that cannot be read as a failure."""
        if report.failed:
            self.tests["failed"] += 1
            self._failures[report.nodeid] = str(report.longrepr)[-1000:]
            self.write()

    def write(self) -> None:
        """Writes what is counted so far."""
        harness.write_json(self._out, {**self.tests, "failures": self._failures})


if __name__ == "__main__":
    sys.exit(run_command("tests", main))
