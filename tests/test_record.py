"""`pytest --record`: what each test did."""

import json
from typing import Any

from pytest import TestReport
from record import Record


def report(name: str, when: Any, outcome: Any = "passed", **named: Any) -> TestReport:
    return TestReport(name, (name, 0, name), {}, outcome, None, when, **named)


def test_outcomes_seconds_and_tries(tmp_path):
    record = Record(tmp_path / "new" / "record.json")
    for said in (
        report("good", "setup", duration=0.5),
        report("good", "call", duration=1.0),
        report("good", "teardown", user_properties=[("inside", 3)]),
        report("bad", "setup"),
        report("bad", "call", "failed"),
        report("bad", "teardown"),
        report("left out", "setup", "skipped"),
        report("left out", "teardown"),
        report("untidy", "setup"),
        report("untidy", "call"),
        report("untidy", "teardown", "failed"),
    ):
        record.pytest_runtest_logreport(said)
    record.pytest_sessionfinish(1)
    written = json.loads((tmp_path / "new" / "record.json").read_text())
    assert written.pop("provenance")["versions"]["jax"]
    tests = written.pop("tests")
    assert 0 <= written.pop("seconds") < 3600
    assert written == {"exit_status": 1, "passed": 1, "failed": 2, "skipped": 1}
    assert tests["good"] == {
        "outcome": "passed",
        "seconds": 1.5,
        "tries": {"inside": 3},
    }
    assert {name: test["outcome"] for name, test in tests.items()} == {
        "good": "passed",
        "bad": "failed",
        "left out": "skipped",
        "untidy": "failed",
    }
