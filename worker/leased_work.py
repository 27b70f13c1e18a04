"""How a worker brings a row that is no job to its end: it claims the row, holds it while it works, and writes the outcome."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from jobstore import leases
from jobstore.settings import get_settings
from jobstore.tables import Base, Dataset, Estimate, Evaluation, Export, Generation
from worker.lease import Lease, LeaseLost, Stopping
from worker.outages import persist
from worker.runtime import sessions

logger = logging.getLogger(__name__)

Row = TypeVar("Row", Dataset, Generation, Export, Evaluation, Estimate)


def work_on(model: type[Row], row_id: str, work: Callable[[Row, Lease], None]) -> None:
    """Claim the row and do the work, which ends it; does nothing where another worker has it.

    Work that raises LeaseLost or Stopping is another worker's to do, and after Stopping with the next sweep.
    """
    settings = get_settings()
    with sessions().begin() as session:
        token = leases.claim(session, model, row_id, settings.lease_seconds)
        row = session.get(model, row_id)
    if token is None or row is None:
        return
    with Lease(sessions(), model, row_id, token, settings) as lease:
        try:
            work(row, lease)
        except LeaseLost:
            logger.warning("Lost the lease of %s; another worker goes on with it", row_id)
        except Stopping:
            lease.expire()


def finish(lease: Lease, status: str, results: Iterable[Base] = (), **values: Any) -> None:
    """End the row, together with the rows that are its results; waits while the database is away.

    Raises LeaseLost where the row is no longer ours, and Stopping where the worker is to end instead of waiting.
    """

    def write() -> None:
        with sessions().begin() as session:
            lease.finish(session, status, **values)
            session.add_all(results)

    persist(lease, write)
