"""How a worker brings rows that are no jobs to their end: it claims a row, holds it while it works, and writes the outcome."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from jobstore.kit import leases, turns
from jobstore.kit.dispatch import Kind
from jobstore.kit.settings import get_settings
from jobstore.kit.tables import Base, Dataset, Estimate, Evaluation, Export, Generation
from worker.kit.lease import Lease, LeaseLost, Stopping
from worker.kit.outages import persist
from worker.kit.runtime import sessions, stop_requested

logger = logging.getLogger(__name__)

Row = TypeVar("Row", Dataset, Generation, Export, Evaluation, Estimate)


def work_off(queue: str, works: Mapping[Kind, Callable[[str], object]], may_begin: Callable[[], bool] = lambda: True) -> None:
    """Work on one row of the queue after the other, in their turns, until none waits or none may begin.

    `works` claim a row by its id, bring it on, and do nothing where another worker has been quicker.
    """
    while not stop_requested() and may_begin():
        with sessions()() as session:
            found = turns.next_waiting(session, queue)
        if found is None:
            return
        kind, row_id = found
        works[kind](row_id)


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
        turns.count(session, model, row.tenant_id)
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
