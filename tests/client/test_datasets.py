"""How a dataset's report is shown to people."""

import pytest

from client.datasets import present_report
from client.shapes import DatasetReport


def test_a_report_shows_the_split_and_warns(capsys: pytest.CaptureFixture[str]) -> None:
    report: DatasetReport = {
        "files": 3,
        "kept": 3,
        "layout": "food-101",
        "refused": [],
        "duplicates": [],
        "label_conflicts": [],
        "warnings": [{"code": "class_count", "message": "There are 2 classes; the authors publish [101]."}],
        "classes": {"apple_pie": 2, "waffles": 1},
        "splits": {"train": 2, "test": 1},
        "sizes": {},
    }
    present_report(report)
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines()]
    assert [["train", "2"] in rows, ["test", "1"] in rows, ["apple_pie", "2"] in rows] == [True] * 3
    assert "food-101: There are 2 classes; the authors publish [101]." in shown.err
