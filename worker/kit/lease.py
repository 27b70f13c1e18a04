"""Holding a claimed row: a thread renews the lease and reads whether the job is to be cancelled or paused."""

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs.lifecycle import JobStatus
from jobstore.kit import leases
from jobstore.kit.settings import Settings
from worker.kit.runtime import stop_requested

logger = logging.getLogger(__name__)


# So long a worker goes on without the database, which alone could give its row to another. Shorter than the grace period of
# files that no row names: what was stored before the outage must still be there when its row is written.
OUTAGE_SECONDS = 1800.0


class LeaseLost(Exception):
    """Another worker may have the row by now: stop at once and write nothing more."""


class Stopping(Exception):
    """The worker shuts down, or the job is to be cancelled: hand the row back."""


class Lease:
    """A row of a leased table that this process holds while the `with` block is open.

    `lost` is set when the row was taken away. While the database is away nobody can take it: the work goes on, and a worker
    that finds its lease expired in the end has written nothing, for every write names the token.
    """

    def __init__(
        self, sessions: sessionmaker[Session], model: leases.LeasedModel, row_id: str, token: UUID, settings: Settings
    ) -> None:
        self.model, self.row_id, self.token = model, row_id, token
        self.lost = threading.Event()
        self.cancelling = self.pausing = False  # what the job's status asks of its worker
        self._sessions, self._settings = sessions, settings
        self._closed, self._due = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{row_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop_renewing()

    @property
    def asked_to_stop(self) -> bool:
        """Whether the job is to be cancelled or paused."""
        return self.cancelling or self.pausing

    def look(self) -> None:
        """Renew the lease and read the job's status now, in the lease's own thread."""
        self._due.set()

    def check(self) -> None:
        """Raises LeaseLost or Stopping where the work must not go on; long loops call it often."""
        if self.lost.is_set():
            raise LeaseLost(self.row_id)
        if self.cancelling or stop_requested():
            raise Stopping(self.row_id)

    def write(self, session: Session, **values: Any) -> None:
        """Set columns of the row; raises LeaseLost instead where the row is no longer ours."""
        if self.lost.is_set() or not leases.write(session, self.model, self.row_id, self.token, **values):
            raise LeaseLost(self.row_id)

    def finish(self, session: Session, status: str, **values: Any) -> None:
        """End the row; raises LeaseLost instead where the row is no longer ours."""
        if self.lost.is_set() or not leases.finish(session, self.model, self.row_id, self.token, status, **values):
            raise LeaseLost(self.row_id)

    def expire(self) -> None:
        """Give up this attempt: the next sweep queues the row again, or fails it after the last attempt."""
        self._stop_renewing()
        with self._sessions.begin() as session:
            leases.renew(session, self.model, self.row_id, self.token, 0)

    def _stop_renewing(self) -> None:
        self._closed.set()
        self._due.set()
        self._thread.join()

    def _keep(self) -> None:
        reached_at = time.monotonic()
        while True:
            self._due.wait(self._settings.heartbeat_seconds)
            if self._closed.is_set():
                return
            self._due.clear()
            try:
                with self._sessions.begin() as session:
                    status = leases.renew(session, self.model, self.row_id, self.token, self._settings.lease_seconds)
                held = status is not None
                self.cancelling, self.pausing = status == JobStatus.CANCELLING, status == JobStatus.PAUSING
            except SQLAlchemyError as error:
                logger.warning("The lease of %s could not be renewed: %s", self.row_id, error)
                held = time.monotonic() < reached_at + OUTAGE_SECONDS
            else:
                reached_at = time.monotonic()
            if not held:
                self.lost.set()
                return
