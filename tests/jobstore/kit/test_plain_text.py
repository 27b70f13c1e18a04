"""Names show themselves, and change nothing of what is shown beside them."""

import pytest

from jobstore.kit.plain_text import is_plain


@pytest.mark.parametrize("text", ["cat", "größe", "猫", "a b", "a\u00a0b", "👩\u200d🚀", "می\u200cخواهم", "a:b?", "<b>"])
def test_what_people_call_things_is_plain(text: str) -> None:
    assert is_plain(text)


@pytest.mark.parametrize(
    "text", ["a\0", "a\nb", "\x1b[2J", "a\x7f", "\x9b31m", "a\u2028b", "\u202egnp.tac", "\u2066a", "\ud800"]
)
def test_what_moves_hides_or_turns_is_not(text: str) -> None:
    assert not is_plain(text)
