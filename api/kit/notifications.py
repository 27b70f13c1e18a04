"""One LISTEN connection a process: wakes the streams and requests that wait for a changed row, and drops changed keys."""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from api.kit.keyring import KeyRing
from jobstore.jobs.events import CHANNEL, Kind

logger = logging.getLogger(__name__)

FIRST_RETRY, LAST_RETRY = 0.1, 5.0  # seconds between attempts to connect; doubled after each
CONNECT_TIMEOUT = 5  # seconds
CHECK_SECONDS = 10.0  # a connection that is silent for so long is asked whether it still stands


class Notifications:
    """`run` listens for as long as the process lives; `subscribe` gives an event that is set at every change of a row.

    What was notified while the connection was down is lost, so every event is set when it is back: waiters look again.
    """

    def __init__(self, database_url: str, keyring: KeyRing) -> None:
        self._keyring = keyring
        self._conninfo = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._waiting: defaultdict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT
                ) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    delay = FIRST_RETRY
                    self._wake_all()
                    while True:
                        async for notification in connection.notifies(timeout=CHECK_SECONDS):
                            self._wake(notification.payload)
                        async with asyncio.timeout(CONNECT_TIMEOUT):
                            await connection.execute(f"LISTEN {CHANNEL}")  # once more is no error
            except (psycopg.OperationalError, TimeoutError) as error:
                self._keyring.listening = False
                logger.warning("Not listening to the database, trying again in %.1f s: %s", delay, error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY)

    @contextmanager
    def subscribe(self, *rows: tuple[Kind, str]) -> Iterator[asyncio.Event]:
        """The event of all these rows."""
        changed = asyncio.Event()
        for row in rows:
            self._waiting[row].add(changed)
        try:
            yield changed
        finally:
            for row in rows:
                self._waiting[row].discard(changed)
                if not self._waiting[row]:
                    del self._waiting[row]

    def _wake(self, payload: str) -> None:
        for kind, row_id in json.loads(payload).items():
            if kind == "key":
                self._keyring.forget(row_id)
            for changed in self._waiting.get((kind, row_id), ()):
                changed.set()

    def _wake_all(self) -> None:
        self._keyring.forget_all()
        self._keyring.listening = True
        for waiting in self._waiting.values():
            for changed in waiting:
                changed.set()


async def wait(changed: asyncio.Event, seconds: float) -> bool:
    """Until the row has changed, or False after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await changed.wait()
    except TimeoutError:
        return False
