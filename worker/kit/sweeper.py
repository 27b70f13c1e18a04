"""Finds what got lost: leases of workers that fell silent, and rows whose message never reached a worker."""

import logging
import threading
import time

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from jobstore.estimates import service as estimates
from jobstore.kit import idempotency, leases, turns
from jobstore.kit.dispatch import wake
from jobstore.kit.settings import Settings
from jobstore.uploads import service as uploads
from jobstore.webhooks import deliveries as webhooks

logger = logging.getLogger(__name__)

ADVISORY_LOCK = 0x0D1F_F517  # any number that nothing else in the database locks


class Sweeper:
    """Sweeps until `stop` is set; a server that is away is logged and tried again."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        self._sessions, self._settings = sessions, settings
        self._reachable_since = self._reached_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(self._settings.sweep_seconds):
            try:
                sweep(self._sessions, self._settings, take_over=self.database_is_steady())
            except Exception:
                logger.exception("A sweep failed; the next one follows in %s s", self._settings.sweep_seconds)

    def database_is_steady(self) -> bool:
        """Whether workers had the time to renew their leases: not in the first moments after the database was away.

        They go on working meanwhile, and taking their jobs from them would throw that away.
        """
        with self._sessions() as session:
            session.execute(text("SELECT 1"))
        now = time.monotonic()
        if now > self._reached_at + self._settings.sweep_seconds + self._settings.lease_seconds / 2:
            self._reachable_since = now
            logger.warning("The database was away; leases are left alone for %s s", self._settings.lease_seconds)
        self._reached_at = now
        return now >= self._reachable_since + self._settings.lease_seconds


def sweep(sessions: sessionmaker[Session], settings: Settings, take_over: bool = True) -> None:
    """Take over expired leases and send missing messages; of several sweepers one works, the others find nothing to do."""
    with sessions.begin() as session:
        if not session.scalar(select(func.pg_try_advisory_xact_lock(ADVISORY_LOCK))):
            return
        waiting = [
            (kind, row)
            for kind, model in turns.MODELS.items()
            if take_over
            for row in leases.expired(session, model, settings.max_attempts)
        ]
        idempotency.forget_old(session)
        estimates.forget_old(session)
        webhooks.forget_old(session)
        uploads.forget_expired(session)
    for kind, row_id in waiting:
        logger.warning("Took over %s from a worker that fell silent", row_id)
        wake(kind, row_id)
    for kind, model in turns.MODELS.items():
        with sessions.begin() as session:
            unclaimed = leases.unclaimed(session, model, settings.sweep_seconds)
        wake(kind, *unclaimed)
