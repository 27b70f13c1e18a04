"""Does it work there? The tests marked `gpu`, in one process."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.record import Record

ROOT = Path(__file__).parent.parent.parent
ROOM = "tests/difffit_core"  # whose tests need no database and no queue
SMALL_ROOM = f"{ROOM}/training"  # enough to see that they are found
SHOWN = 600  # characters of a failure


class Outcomes:
    """Writes what becomes of each test as soon as it is known."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.record.write(collected=len(session.items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed(report.nodeid, report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed(f"{report.nodeid} ({report.when})", report.longreprtext)
        elif report.skipped or report.when == "call":
            self.counts[report.outcome] += 1
            row = {"test": report.nodeid.removeprefix(f"{ROOM}/"), "outcome": report.outcome, "seconds": report.duration}
            self.record.add("tests", row | {"seconds": round(report.duration, 2)})
            self.record.write(**self.counts)

    def _failed(self, name: str, text: str) -> None:
        self.counts["failed"] += 1
        self.record.add("failures", {"test": name, "text": text[-SHOWN:]})
        self.record.write(**self.counts)


def run(record: Record, small: bool, seconds: float) -> None:
    """Alike in small, for one folder: without a GPU the tests that need one are skipped."""
    outcomes = Outcomes(record)
    record.write(**outcomes.counts)
    options = ["-m", "gpu", f"--rootdir={ROOT}", "-p", "no:cacheprovider", "--tb=short", "-q"]
    status = pytest.main([*options, str(ROOT / (SMALL_ROOM if small else ROOM))], plugins=[outcomes])
    record.write(pytest_status=int(status))


def summary(figures: dict[str, Any]) -> list[str]:
    counts = f"{figures['passed']} passed, {figures['failed']} failed, {figures['skipped']} skipped"
    failures = [f"failed: {row['test']}\n    {row['text'].splitlines()[-1][:150]}" for row in figures.get("failures", [])]
    return [counts, *failures]
