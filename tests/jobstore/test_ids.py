"""Ids say what they name, sort by time and do not repeat."""

import re
import time

from jobstore.ids import new_id


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = []
    for _ in range(20):
        ids.append(new_id("job"))
        made = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == made:  # ids of one millisecond have no order
            pass
    assert ids == sorted(ids)


def test_ids_are_unique_and_fit_urls() -> None:
    ids = {new_id("img") for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(re.fullmatch(r"img_[0-9a-hjkmnp-tv-z]{26}", i) for i in ids)
