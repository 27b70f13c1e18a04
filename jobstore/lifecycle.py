"""The job lifecycle: which status may follow which, and the guarded writes by which workers own a row.

A worker claims a row with a random lease token; every later write names the token, so a worker that lost its lease changes
nothing. Times are the database's. Each function is one UPDATE … WHERE (or one locked row) in the caller's transaction.
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from jobstore import events
from jobstore.errors import ConflictError
from jobstore.tables import Dataset, Generation, Job

LeasedModel = type[Dataset] | type[Job] | type[Generation]


class JobStatus(StrEnum):
    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = JobStatus
TERMINAL = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED})
ALLOWED: dict[JobStatus, frozenset[JobStatus]] = {
    S.VALIDATING: frozenset({S.QUEUED, S.FAILED, S.CANCELLED}),
    S.QUEUED: frozenset({S.RUNNING, S.PAUSED, S.CANCELLED}),
    S.RUNNING: frozenset({S.QUEUED, S.PAUSING, S.CANCELLING, S.SUCCEEDED, S.FAILED}),
    # A job that ends before it sees the request has ended as it ended.
    S.PAUSING: frozenset({S.PAUSED, S.CANCELLING, S.SUCCEEDED, S.FAILED}),
    S.PAUSED: frozenset({S.QUEUED, S.CANCELLED}),
    S.CANCELLING: frozenset({S.CANCELLED, S.SUCCEEDED, S.FAILED}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset({S.QUEUED}),  # a retry
    S.CANCELLED: frozenset({S.QUEUED}),  # a retry
}

WAITING: dict[LeasedModel, str] = {Dataset: "checking", Job: S.QUEUED, Generation: "queued"}
WORKING: dict[LeasedModel, str] = {Dataset: "checking", Job: S.RUNNING, Generation: "running"}


def claim(session: Session, model: LeasedModel, row_id: str, lease_seconds: float) -> UUID | None:
    """Take a waiting row: the lease token, or None where another worker has it or it is not waiting."""
    token = uuid4()
    values: dict[str, Any] = {
        "status": WORKING[model],
        "lease_token": token,
        "lease_expires_at": func.now() + timedelta(seconds=lease_seconds),
        "attempt": model.attempt + 1,
    }
    if model is Job:
        values["started_at"] = func.coalesce(Job.started_at, func.now())
    taken = session.scalar(
        update(model)
        .where(model.id == row_id, model.status == WAITING[model], model.lease_token.is_(None))
        .values(values)
        .returning(model.id)
    )
    return token if taken else None


def renew(session: Session, model: LeasedModel, row_id: str, token: UUID, lease_seconds: float) -> bool:
    """Keep the lease; False where it was lost, and then the worker must stop."""
    return write(session, model, row_id, token, lease_expires_at=func.now() + timedelta(seconds=lease_seconds))


def write(session: Session, model: LeasedModel, row_id: str, token: UUID, **values: Any) -> bool:
    """Set columns of a row the worker holds; False where the lease was lost and nothing was written."""
    written = session.scalar(
        update(model).where(model.id == row_id, model.lease_token == token).values(values).returning(model.id)
    )
    return written is not None


def finish(session: Session, model: LeasedModel, row_id: str, token: UUID, status: str, **values: Any) -> bool:
    """End the work and release the lease; False where the lease was lost or the status may not follow. Appends no event."""
    before = [s for s in JobStatus if status in ALLOWED[s]] if model is Job else [WORKING[model]]
    ended = session.scalar(
        update(model)
        .where(model.id == row_id, model.lease_token == token, model.status.in_(before))
        .values({**values, "status": status, "finished_at": func.now(), "lease_token": None, "lease_expires_at": None})
        .returning(model.id)
    )
    return ended is not None


def release(session: Session, job_id: str, token: UUID) -> bool:
    """Hand a running job back to the queue because its worker shuts down; the attempt does not count."""
    released = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.lease_token == token, Job.status == S.RUNNING)
        .values(status=S.QUEUED, attempt=Job.attempt - 1, lease_token=None, lease_expires_at=None, woken_at=func.now())
        .returning(Job.id)
    )
    if released:
        events.append(session, job_id, "requeued", {"message": "The worker was stopped; the job waits for another."})
    return released is not None


def request_cancel(session: Session, job: Job) -> JobStatus:
    """Cancel at once what no worker holds, ask the worker otherwise, and append the event `cancelled` or `cancelling`.

    Asking again is no error. Raises ConflictError (`job_already_ended`) for a job that has ended.
    """
    session.refresh(job, with_for_update=True)
    status = JobStatus(job.status)
    if status in TERMINAL:
        raise ConflictError(f"The job has ended already: it is {status}.", code="job_already_ended")
    if status is S.CANCELLING:
        return status
    job.cancel_requested = True
    if S.CANCELLED in ALLOWED[status]:
        job.status = S.CANCELLED
        job.finished_at = session.scalar(select(func.now()))
    else:
        job.status = S.CANCELLING
    events.append(session, job.id, job.status, {})
    return JobStatus(job.status)


def expired(session: Session, model: LeasedModel, max_attempts: int) -> list[str]:
    """Take over rows whose worker fell silent; returns those that wait again and need a message after the commit.

    A row waits again until `max_attempts` workers were lost with it, then it fails with `worker_lost`; a job that was to be
    cancelled or paused is. Job events (`requeued`, `failed`, `cancelled`, `paused`) and notifications are written here.
    """
    silent = select(model).where(model.lease_expires_at < func.now(), model.finished_at.is_(None))
    rows = cast("Sequence[Dataset | Job | Generation]", session.scalars(silent.with_for_update(skip_locked=True)).all())
    now = session.scalar(select(func.now()))
    waiting = []
    for row in rows:
        message = f"The worker fell silent (attempt {row.attempt} of {max_attempts})."
        event: dict[str, Any] = {"message": message}
        row.lease_token = row.lease_expires_at = None
        if row.status in {S.CANCELLING, S.PAUSING}:
            row.status = S.CANCELLED if row.status == S.CANCELLING else S.PAUSED
        elif row.attempt < max_attempts:
            row.status, row.woken_at = WAITING[model], now
            waiting.append(row.id)
        else:
            row.status = "failed"
            row.error = event = {"code": "worker_lost", "message": f"{message} Look into the worker's log.", "param": None}
        if row.status in {S.FAILED, S.CANCELLED}:
            row.finished_at = now
        if isinstance(row, Job):
            events.append(session, row.id, "requeued" if row.status == S.QUEUED else row.status, event)
        elif isinstance(row, Generation):
            events.notify(session, "generation", row.id)
    return waiting


def unclaimed(session: Session, model: LeasedModel, older_than_seconds: float) -> list[str]:
    """Rows that wait although their last message is older than this: send it again after the commit.

    Each is returned once in that time, so that a long queue is not flooded with messages.
    """
    before = func.now() - timedelta(seconds=older_than_seconds)
    return list(
        session.scalars(
            update(model)
            .where(
                model.status == WAITING[model],
                model.lease_token.is_(None),
                or_(model.woken_at < before, model.woken_at.is_(None) & (model.created_at < before)),
            )
            .values(woken_at=func.now())
            .returning(model.id)
        )
    )
