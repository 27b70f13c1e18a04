"""Encoded datasets that jobs share: which there are, which are kept, and which nobody needs any more.

They are shared within a tenant only: how fast a job begins would tell others what a tenant's datasets hold. They count as
stored, and go with their dataset, or when no job has used them for long.
"""

from datetime import timedelta

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobstore.kit.tables import Dataset, Encoding


def use(session: Session, tenant_id: str, key: str) -> Encoding | None:
    """The tenant's encodings of that key, where there are any, for a job that begins with them now."""
    wanted = update(Encoding).where(Encoding.tenant_id == tenant_id, Encoding.key == key)
    return session.scalar(wanted.values(last_used_at=func.now()).returning(Encoding))


def keep(session: Session, row: Encoding, instead_of: str | None) -> list[str]:
    """Keep the row, unless another job's is there that does not name the object `instead_of`, which could not be used.

    Returns the keys of objects that no row names afterwards.
    """
    same = Encoding.tenant_id == row.tenant_id, Encoding.key == row.key
    unusable = delete(Encoding).where(*same, Encoding.object_key == instead_of, Encoding.object_key != row.object_key)
    superfluous = list(session.scalars(unusable.returning(Encoding.object_key)))
    columns = ("tenant_id", "key", "dataset_sha256", "object_key", "bytes", "sha256")
    session.execute(insert(Encoding).values({name: getattr(row, name) for name in columns}).on_conflict_do_nothing())
    kept = session.scalar(select(Encoding.object_key).where(*same))
    return superfluous if kept == row.object_key else [*superfluous, row.object_key]


DATASET = exists().where(
    Dataset.tenant_id == Encoding.tenant_id, Dataset.sha256 == Encoding.dataset_sha256, Dataset.status != "deleted"
)


def forget_without_dataset(session: Session, tenant_id: str) -> list[str]:
    """Delete a tenant's rows that belong to no dataset any more; returns the keys of their objects."""
    forgotten = delete(Encoding).where(Encoding.tenant_id == tenant_id, ~DATASET)
    return list(session.scalars(forgotten.returning(Encoding.object_key)))


def forget_unused(session: Session, days: float) -> int:
    """Delete the rows that no job has used for so long, and those whose dataset is deleted; returns how many.

    Their objects are then named by no row, and the next collection of garbage deletes them.
    """
    unused = or_(Encoding.last_used_at < func.now() - timedelta(days=days), ~DATASET)
    return len(session.scalars(delete(Encoding).where(unused).returning(Encoding.key)).all())
