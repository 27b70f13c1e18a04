"""Waiting out what may pass, such as a database that is away: the trainer goes on meanwhile, and what it reports is kept."""

import errno
import logging
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from jobstore.kit.errors import StorageError
from worker.kit.lease import Lease

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0  # seconds between two tries; doubled after each


def persist(lease: Lease, work: Callable[[], T], *, fetches: bool = False) -> T:
    """Do the work, again and again while a server is away or the disk is full. It may be done twice: a commit can succeed
    without an answer.

    Raises LeaseLost or Stopping where the worker is to end instead, and every other error of the work: OSError of a full disk
    where it `fetches` to this machine, for that may be what fills it.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return work()
        except (DBAPIError, StorageError, OSError) as error:
            if not may_pass(error) or (fetches and isinstance(error, OSError)):
                raise
            logger.warning("Trying again in %.1f s, for %s: %s", pause, lease.row_id, error)
        lease.check()
        lease.lost.wait(pause)
        pause = min(2 * pause, LAST_PAUSE)


def may_pass(error: DBAPIError | StorageError | OSError) -> bool:
    """Whether a failure says that a server is away or a disk full, and not that what was asked of it is wrong."""
    if isinstance(error, StorageError):
        return error.code != "object_missing"
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    # Of the class "operational": the server is away, shuts down, starts up, or is out of disk or memory.
    return error.connection_invalidated or type(error).__name__ in {"OperationalError", "InterfaceError", "InternalError"}
