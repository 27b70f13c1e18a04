"""Ids say what they name, sort by time and do not repeat."""

import re
import time

import pytest

from jobstore.kit.ids import new_id


def test_ids_sort_in_the_order_they_were_made_even_within_a_millisecond() -> None:
    ids = [new_id("job") for _ in range(10_000)]
    assert ids == sorted(ids)


def test_a_clock_that_is_set_back_does_not_disturb_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id("job")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 60 * 10**9)
    assert new_id("job") > before


def test_ids_are_unique_and_fit_urls() -> None:
    ids = {new_id("img") for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(re.fullmatch(r"img_[0-9a-hjkmnp-tv-z]{26}", i) for i in ids)
