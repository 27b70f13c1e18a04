"""Estimates for plans: one row for all plans that want the same figures, computed by a worker and kept for a while."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobstore.kit.ids import new_id
from jobstore.kit.tables import Estimate, Json

KEPT = timedelta(days=7)  # so long a worker's device may have changed without anybody noticing
MOST_WAITING = 10  # of a tenant: each takes seconds of a worker that makes pictures, and computes those of others, too
ACCIDENTS = {"worker_lost", "estimate_failed", "dataset_missing"}  # other failures lie in what was asked
FAILURE_KEPT = timedelta(seconds=60)  # so long an accident is the answer; then a plan tries again


def find_or_queue(session: Session, tenant_id: str, key: str, spec: Json) -> tuple[Estimate | None, bool]:
    """The estimate, and whether a worker is to be woken for it after the commit. None where too many of the tenant wait.

    Who asks for several asks in the order of their keys, so that two transactions do not wait for each other.
    """
    found = session.scalar(select(Estimate).where(Estimate.key == key))
    if found is not None and not _try_again(session, found):
        return found, False
    waiting = select(func.count()).where(Estimate.tenant_id == tenant_id, Estimate.status.in_(("queued", "running")))
    if session.scalars(waiting).one() >= MOST_WAITING:
        return None, False
    if found is not None:
        session.delete(found)
        session.flush()
    new = insert(Estimate).values(id=new_id("est"), key=key, tenant_id=tenant_id, status="queued", spec=spec, attempt=0)
    fresh = session.scalar(new.on_conflict_do_nothing().returning(Estimate.id)) is not None
    return session.scalars(select(Estimate).where(Estimate.key == key)).one(), fresh


def _try_again(session: Session, estimate: Estimate) -> bool:
    if estimate.status != "failed" or estimate.error is None or estimate.error["code"] not in ACCIDENTS:
        return False
    return bool(session.scalar(select(func.now() - FAILURE_KEPT > estimate.finished_at)))


def forget_old(session: Session) -> None:
    """Delete estimates that are to be computed anew, or that no worker has computed."""
    session.execute(delete(Estimate).where(Estimate.created_at < func.now() - KEPT, Estimate.lease_token.is_(None)))
