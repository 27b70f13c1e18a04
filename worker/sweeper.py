"""Finds what got lost: leases of workers that fell silent, and rows whose message never reached a worker."""

import logging
import threading

from kombu.exceptions import ChannelError
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from jobstore import idempotency, leases, webhooks
from jobstore.dispatch import QUEUES, Kind, celery_app, wake
from jobstore.settings import Settings
from jobstore.tables import Dataset, Generation, Job

logger = logging.getLogger(__name__)

KINDS: dict[Kind, leases.LeasedModel] = {"train": Job, "generate": Generation, "check_dataset": Dataset}
ADVISORY_LOCK = 0x0D1F_F517  # any number that nothing else in the database locks


def sweep_forever(sessions: sessionmaker[Session], settings: Settings, stop: threading.Event) -> None:
    """Sweep until `stop` is set; a database or broker that is away is logged and tried again."""
    while not stop.wait(settings.sweep_seconds):
        try:
            sweep(sessions, settings)
        except Exception:
            logger.exception("A sweep failed; the next one follows in %s s", settings.sweep_seconds)


def sweep(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Take over expired leases and send missing messages; of several sweepers one works, the others find nothing to do."""
    with sessions.begin() as session:
        if not session.scalar(select(func.pg_try_advisory_xact_lock(ADVISORY_LOCK))):
            return
        waiting = [
            (kind, row) for kind, model in KINDS.items() for row in leases.expired(session, model, settings.max_attempts)
        ]
        idempotency.forget_old(session)
        webhooks.forget_old(session)
    for kind, row_id in waiting:
        logger.warning("Took over %s from a worker that fell silent", row_id)
        wake(kind, row_id)
    for kind, model in KINDS.items():
        if _messages(QUEUES[kind]):
            continue  # workers that are busy will come to the rows that wait: nothing is lost
        with sessions.begin() as session:
            unclaimed = leases.unclaimed(session, model, settings.sweep_seconds)
        for row_id in unclaimed:
            wake(kind, row_id)


def _messages(queue: str) -> int:
    with celery_app.connection_for_write() as connection:
        try:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:  # nobody has used the queue yet
            return 0
