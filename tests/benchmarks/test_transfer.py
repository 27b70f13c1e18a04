"""The positional trick in small: at twice the resolution a trained DiT starts far below a table that it does not know."""

from benchmarks.transfer import start_losses


def test_the_known_range_starts_lower_than_a_new_table() -> None:
    loss = start_losses(count=12)
    assert loss["trick"] < 0.75 * loss["new"]
    assert loss["trick"] < loss["nearest"]
