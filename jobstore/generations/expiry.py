"""Generations that are over: they go when they are old, with their pictures and texts."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from jobstore.kit.tables import Generation

BATCH = 1000  # rows in one transaction: a few seconds of work, however many there are


def forget_old(session: Session, days: float) -> int:
    """Delete generations that ended so long ago, `BATCH` at most; returns how many.

    The objects of their pictures are then named by no row, and the next collection of garbage deletes them.
    """
    old = select(Generation.id).where(Generation.finished_at < func.now() - timedelta(days=days)).limit(BATCH)
    gone = delete(Generation).where(Generation.id.in_(old.with_for_update(skip_locked=True).scalar_subquery()))
    return len(session.scalars(gone.returning(Generation.id)).all())
