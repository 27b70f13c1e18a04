"""Ids that say what they name and sort by the time they were made: `job_` + 48 bits of milliseconds + 80 random bits."""

import secrets
import time
from typing import Literal

Prefix = Literal["ds", "job", "ad", "gen", "exp", "ck", "evt", "img", "ten", "key", "wh", "msg", "upl"]
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def new_id(prefix: Prefix) -> str:
    """A fresh id such as `job_01k9x3…`: 26 characters after the prefix, unique, ordered by creation to a millisecond."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}_" + "".join(ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
