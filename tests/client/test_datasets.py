"""How a dataset's report is shown to people."""

import pytest

from client.datasets import present_report
from client.responses import DatasetReport


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
        "texts": {},
        "conditions": 0,
    }
    present_report(report)
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines()]
    assert [["train", "2"] in rows, ["test", "1"] in rows, ["apple_pie", "2"] in rows] == [True] * 3
    assert "food-101: There are 2 classes; the authors publish [101]." in shown.err


def test_a_report_of_captions_shows_their_lengths_and_no_class(capsys: pytest.CaptureFixture[str]) -> None:
    report: DatasetReport = {
        "files": 4,
        "kept": 2,
        "layout": "captions",
        "refused": [],
        "duplicates": [],
        "label_conflicts": [],
        "warnings": [],
        "classes": {"": 2},
        "splits": {},
        "sizes": {},
        "texts": {"caption": {"count": 2, "shortest": 5, "longest": 70}},
        "conditions": 2,
    }
    present_report(report)
    shown = capsys.readouterr()
    assert ["caption", "2", "5", "70"] in [line.split() for line in shown.out.splitlines()]
    assert "class" not in shown.out
    assert "2 pictures have a condition" in shown.err
