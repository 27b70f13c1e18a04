"""Rings when a job is to be cancelled or paused: its worker looks at once, and not with the next heartbeat."""

import json
import logging
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

import psycopg

from jobstore.jobs.events import CHANNEL

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5  # seconds
RETRY_SECONDS = 2.0  # between attempts to connect; meanwhile the heartbeat sees what is asked


class Interrupts:
    """Calls `ring` for every notification that something is asked of the job, while the `with` block is open.

    It listens in a thread, on a connection of its own. Where that breaks it is made again, and then rings as well: what was
    notified meanwhile is lost.
    """

    def __init__(self, database_url: str, job_id: str, ring: Callable[[], None]) -> None:
        self._conninfo = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._payload, self._ring = json.dumps({"asked": job_id}), ring
        self._closing, self._close = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name=f"interrupts-{job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close.close()  # which wakes the thread
        self._thread.join()
        self._closing.close()

    def _listen(self) -> None:
        closed = False
        while not closed:
            try:
                with psycopg.connect(self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._ring()
                    while not (closed := self._closing in wait([self._closing, connection.fileno()])):
                        if self._payload in [heard.payload for heard in connection.notifies(timeout=0)]:
                            self._ring()
            except psycopg.Error as error:
                logger.warning("What is asked of the job is seen with the heartbeat only: %s", error)
                closed = bool(wait([self._closing], RETRY_SECONDS))
