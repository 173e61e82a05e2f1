"""What `pytest --record` writes."""

import collections
import time
from pathlib import Path
from typing import Any

import pytest

from train.run_dir.provenance import write_result


class Record:
    """Outcome, seconds and counts of every test, and seconds of all together."""

    def __init__(self, path: Path) -> None:
        self.path, self.tests = path, dict[str, dict[str, Any]]()
        self.start = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0})
        test["seconds"] = round(test["seconds"] + report.duration, 1)
        if not report.passed:  # a setup that fails, a test, or its cleaning up
            test["outcome"] = report.outcome
        if report.when == "teardown" and report.user_properties:
            test["tries"] = dict(report.user_properties)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        outcomes = collections.Counter(x["outcome"] for x in self.tests.values())
        result = {
            "exit_status": int(exitstatus),
            "seconds": round(time.monotonic() - self.start),
            **outcomes,
            "tests": self.tests,
        }
        write_result(self.path, result)
