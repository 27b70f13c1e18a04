"""Deleting rows and their files: refused while something uses them, and then the answer says what."""

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from api.kit.dependencies import discard
from jobstore.jobs import events
from jobstore.jobs.lifecycle import TERMINAL
from jobstore.kit.errors import ConflictError
from jobstore.kit.objects import ObjectStore, job_prefix
from jobstore.kit.tables import Adapter, Checkpoint, Evaluation, Export, Generation, Image, Job

SHOWN = 10  # ids in a message


def refuse_while_used(noun: str, users: Sequence[str], hint: str) -> None:
    """Raises ConflictError (`<noun>_in_use`) with the ids of what uses the thing."""
    if users:
        shown = ", ".join(users[:SHOWN]) + (f" and {len(users) - SHOWN} more" if len(users) > SHOWN else "")
        raise ConflictError(f"In use by {shown}. {hint}.", code=f"{noun}_in_use")


def delete_ended_job(session: Session, job: Job, store: ObjectStore) -> None:
    """Delete a job with everything that lies under its prefix. Raises ConflictError (`job_in_use`) before it has ended."""
    session.refresh(job, with_for_update=True)
    if job.status not in TERMINAL:
        raise ConflictError(f"The job is {job.status}. Cancel it, or wait for its end.", code="job_in_use")
    job.deleted_at = session.scalar(select(func.now()))
    for model in (Checkpoint, Image):
        session.execute(delete(model).where(model.job_id == job.id))
    discard(session, store, (file.key for file in store.list(job_prefix(job.id))))


def delete_generation(session: Session, generation: Generation, store: ObjectStore) -> None:
    """Delete a generation with its pictures and its condition, whatever its status: a worker that has it loses its lease."""
    pictures = session.scalars(delete(Image).where(Image.generation_id == generation.id).returning(Image.object_key)).all()
    session.delete(generation)
    events.notify(session, "generation", generation.id)
    discard(session, store, filter(None, [*pictures, generation.condition_key]))


def delete_unused_adapter(session: Session, adapter: Adapter, store: ObjectStore) -> None:
    """Delete an adapter's file and its exports. Raises ConflictError (`adapter_in_use`) while something waits for it."""
    session.refresh(adapter, with_for_update=True)
    pictures = select(Generation.id).where(Generation.adapter_id == adapter.id, Generation.finished_at.is_(None))
    jobs = select(Job.id).where(Job.init_adapter_id == adapter.id, Job.status.not_in(TERMINAL))
    evaluations = select(Evaluation.id).where(Evaluation.adapter_id == adapter.id, Evaluation.finished_at.is_(None))
    users = [*session.scalars(pictures), *session.scalars(jobs), *session.scalars(evaluations)]
    refuse_while_used("adapter", users, "Wait until they have ended")
    adapter.deleted_at = session.scalar(select(func.now()))
    exports = session.scalars(delete(Export).where(Export.adapter_id == adapter.id).returning(Export.object_key)).all()
    discard(session, store, [adapter.object_key, *filter(None, exports)])
