"""The chaos run's plan: three minutes are enough for what it promises."""

import random

import pytest

from benchmarks.chaos.faults import KINDS, LONGEST, PAUSE, STOPPED_SECONDS, round_of


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_fault_is_over_within_three_minutes(seed: int) -> None:
    kinds = round_of(random.Random(seed))
    assert sorted(kinds) == sorted(KINDS)
    before = kinds[: kinds.index(LONGEST)]
    assert sum(PAUSE[1] + STOPPED_SECONDS.get(kind.split()[0], 0) for kind in [*before, LONGEST]) < 180
