"""Turns at the database: how many requests ask it at once, in which threads, and how long they wait for that."""

import asyncio
from asyncio import Semaphore
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from api.kit.errors import database_away
from jobstore.kit.database import CONNECTIONS

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseTurns:
    """Half of the connections are for requests that keep one until they end, half for single functions.

    So nobody waits for a connection in a thread: such waits could take all threads, also those of routes without a database.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: whoever waits longer for a turn gets UnavailableError, since those who have them wait for the database."""
        self._seconds = seconds
        self._requests, self._functions = Semaphore(CONNECTIONS // 2), Semaphore(CONNECTIONS // 2)
        self._threads = CapacityLimiter(CONNECTIONS // 2)  # beside those of all other work

    @asynccontextmanager
    async def of_request(self) -> AsyncIterator[None]:
        async with self._one_of(self._requests):
            yield

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that asks the database, in a thread."""
        async with self._one_of(self._functions):
            return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._threads)

    @asynccontextmanager
    async def _one_of(self, turns: Semaphore) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._seconds):
                await turns.acquire()
        except TimeoutError:
            raise database_away() from None
        try:
            yield
        finally:
            turns.release()
