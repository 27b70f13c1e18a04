"""The header `Prefer: wait=N`: how long a client would rather wait than ask again."""

import re

LONGEST = 60  # seconds
RECHECK_SECONDS = 5.0  # a notification is lost where the listening connection breaks; then this finds the change
WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,9})(?:$|[,;\s])")


def wait_seconds(prefer: str, otherwise: int) -> int:
    """The seconds of the header, or `otherwise` where it does not say; LONGEST at most."""
    asked = WAIT.search(prefer)
    return min(int(asked[1]) if asked else otherwise, LONGEST)
