"""Ids that say what they name and sort by the time they were made: `job_` + 48 bits of milliseconds + 80 random bits."""

import secrets
import threading
import time
from typing import Literal

Prefix = Literal["ds", "job", "ad", "gen", "exp", "ck", "evt", "img", "ten", "key", "wh", "msg", "upl", "eval", "est"]
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


_last = 0
_lock = threading.Lock()


def new_id(prefix: Prefix) -> str:
    """A fresh id such as `job_01k9x3…`: 26 characters after the prefix, unique.

    Ids of one process are in the order of its calls, those of several by the millisecond.
    """
    global _last
    fresh = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    with _lock:
        # Within a millisecond, or when the clock is set back, by a random step: forked processes share what came before.
        _last = value = fresh if fresh >> 80 > _last >> 80 else _last + 1 + secrets.randbits(64)
    return f"{prefix}_" + "".join(ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether `new_id` could have made this of that prefix."""
    kind, _, rest = text.partition("_")
    return kind == prefix and len(rest) == 26 and set(rest) <= set(ALPHABET)
