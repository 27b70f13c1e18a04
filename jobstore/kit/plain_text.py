"""Names that people give and others are shown: in a browser, a terminal, a log."""

import unicodedata

HIDING = {"Cc", "Cs", "Zl", "Zp"}  # controls, halves of surrogate pairs, ends of lines and paragraphs
# They turn around what stands beside them. Joiners are no less invisible, but belong to many scripts and emoji.
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_plain(text: str) -> bool:
    """Whether a text shows itself, and nothing else differently."""
    return not any(unicodedata.category(character) in HIDING or character in TURNING for character in text)
