"""One answer to whoever asks whether the service is ready: anybody may ask, and each look writes, connects and queries."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from anyio import CapacityLimiter

KEPT_SECONDS = 3.0  # that all is well; what is not is looked at again at once
MOST_LOOKS = 9  # threads; three for each look, those of looks that hang included


class Readiness:
    """Looks once for all who ask at the same time, and keeps a good answer for some seconds."""

    def __init__(self) -> None:
        self.threads = CapacityLimiter(MOST_LOOKS)
        self._look: asyncio.Task[list[str]] | None = None
        self._good_until = 0.0

    async def ask(self, look: Callable[[], Awaitable[list[str]]]) -> list[str]:
        """The names of the parts that are away, as `look` finds them."""
        if time.monotonic() < self._good_until:
            return []
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(self._keep(look))
        return await asyncio.shield(self._look)

    async def _keep(self, look: Callable[[], Awaitable[list[str]]]) -> list[str]:
        away = await look()
        if not away:
            self._good_until = time.monotonic() + KEPT_SECONDS
        return away
