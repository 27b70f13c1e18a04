"""How a worker owns a row: it claims it with a random token, and every later write names the token.

A worker that lost its lease changes nothing. Times are the database's. Each function is one UPDATE … WHERE (or one locked row)
in the caller's transaction.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.orm import Session

from jobstore.jobs import events
from jobstore.jobs.lifecycle import TERMINAL, TRANSITIONS, Action, JobStatus, sources
from jobstore.kit.tables import Dataset, Estimate, Evaluation, Export, Generation, Job
from jobstore.webhooks import deliveries as webhooks

LeasedRow = Dataset | Job | Generation | Export | Evaluation | Estimate
LeasedModel = type[Dataset] | type[Job] | type[Generation] | type[Export] | type[Evaluation] | type[Estimate]

WAITING: dict[LeasedModel, str] = dict.fromkeys((Generation, Export, Evaluation, Estimate), "queued")
WAITING |= {Dataset: "checking", Job: JobStatus.QUEUED}
WORKING: dict[LeasedModel, str] = dict.fromkeys((Generation, Export, Evaluation, Estimate), "running")
WORKING |= {Dataset: "checking", Job: JobStatus.RUNNING}
MOST_WOKEN = 100  # rows in one look; a worker that wakes works off every row that waits, so more would only fill the queue


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
        values |= {"started_at": func.coalesce(Job.started_at, func.now()), "claimed_at": func.now()}
    taken = session.scalar(
        update(model)
        .where(model.id == row_id, model.status == WAITING[model], model.lease_token.is_(None))
        .values(values)
        .returning(model.id)
    )
    return token if taken else None


def renew(session: Session, model: LeasedModel, row_id: str, token: UUID, lease_seconds: float) -> str | None:
    """Keep the lease; the row's status, or None where the lease was lost, and then the worker must stop."""
    until = func.now() + timedelta(seconds=lease_seconds)
    kept = update(model).where(model.id == row_id, model.lease_token == token).values(lease_expires_at=until)
    return session.scalar(kept.returning(model.status))


def write(session: Session, model: LeasedModel, row_id: str, token: UUID, **values: Any) -> bool:
    """Set columns of a row the worker holds; False where the lease was lost and nothing was written."""
    written = session.scalar(
        update(model)
        .where(model.id == row_id, model.lease_token == token)
        .values({"lease_token": token, **values})
        .returning(model.id)
    )
    return written is not None


def finish(session: Session, model: LeasedModel, row_id: str, token: UUID, status: str, **values: Any) -> bool:
    """End the work as `status` and release the lease; False where it was lost or a job may not end so.

    Whoever waits for the row is told, but a job's event is the caller's to append.
    """
    ways = {JobStatus.SUCCEEDED: Action.SUCCEED, JobStatus.FAILED: Action.FAIL}
    before = list(sources(ways[JobStatus(status)])) if model is Job else [WORKING[model]]
    ended = session.scalar(
        update(model)
        .where(model.id == row_id, model.lease_token == token, model.status.in_(before))
        .values({**values, **_released(model), "status": status, "finished_at": func.now()})
        .returning(model.id)
    )
    if ended is not None:
        _tell(session, model, row_id)
    return ended is not None


def _tell(session: Session, model: LeasedModel, row_id: str) -> None:
    """Wake whoever waits for the row, at the commit, or write the webhooks that its end is told by."""
    if model is Generation:
        events.notify(session, "generation", row_id)
    elif model is Estimate:
        events.notify(session, "estimate", row_id)
    elif model is Dataset:
        webhooks.announce(session, row_id)


def stop(session: Session, job_id: str, token: UUID, message: str, **values: Any) -> JobStatus | None:
    """Give a job back whose trainer has stopped before its end: it is cancelled or paused where that was asked, else queued.

    The attempt does not count. Appends the event `cancelled`, `paused` or `requeued`; None where the lease was lost.
    """
    following = sources(Action.STOP)
    ended_at = case((Job.status.in_([s for s, after in following.items() if after in TERMINAL]), func.now()))
    after = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.lease_token == token, Job.status.in_(list(following)))
        .values(
            {
                **values,
                **_released(Job),
                "status": case(following, value=Job.status),
                "attempt": Job.attempt - 1,
                "woken_at": func.now(),
                "finished_at": ended_at,
                "seconds_remaining": None,
            }
        )
        .returning(Job.status)
    )
    if after is None:
        return None
    requeued = after == JobStatus.QUEUED
    events.append(session, job_id, "requeued" if requeued else after, {"message": message} if requeued else {})
    return JobStatus(after)


def give_back(session: Session, model: LeasedModel, row_id: str, token: UUID) -> bool:
    """Let a row that is no job wait again, for this worker has other things to do; the attempt does not count."""
    values = _released(model) | {"status": WAITING[model], "attempt": model.attempt - 1, "woken_at": func.now()}
    given = update(model).where(model.id == row_id, model.lease_token == token).values(values)
    return session.scalar(given.returning(model.id)) is not None


def _released(model: LeasedModel) -> dict[str, Any]:
    """Columns of a row without a lease; a job's time with this worker is added to what it has used."""
    values: dict[str, Any] = {"lease_token": None, "lease_expires_at": None}
    if model is Job:
        values |= {"seconds_used": seconds_used(), "claimed_at": None}
    return values


def seconds_used() -> Any:
    """The seconds a job has had a worker, the open lease included, as an expression over its row."""
    lease = func.least(func.now(), Job.lease_expires_at) - Job.claimed_at
    return Job.seconds_used + func.coalesce(func.greatest(func.extract("epoch", lease), 0), 0)


def expired(session: Session, model: LeasedModel, max_attempts: int) -> list[str]:
    """Take over rows whose worker fell silent; returns those that wait again and need a message after the commit.

    A row waits again until `max_attempts` workers were lost with it, then it fails with `worker_lost`; a job that was to be
    cancelled or paused is. Job events (`requeued`, `failed`, `cancelled`, `paused`) and notifications are written here.
    """
    silent = select(model).where(model.lease_expires_at < func.now(), model.finished_at.is_(None))
    rows = cast("Sequence[LeasedRow]", session.scalars(silent.with_for_update(skip_locked=True)).all())
    now = session.execute(select(func.now())).scalar_one()
    waiting = []
    for row in rows:
        left = row.attempt < max_attempts
        message = f"The worker fell silent (attempt {row.attempt} of {max_attempts})."
        event: dict[str, Any] = {"message": message}
        _take_over(row, model, left, now)
        if row.status == WAITING[model]:
            row.woken_at = now
            waiting.append(row.id)
        elif row.status == "failed":
            row.error = event = {"code": "worker_lost", "message": f"{message} Look into the worker's log.", "param": None}
        if row.status in TERMINAL:
            row.finished_at = now
        if isinstance(row, Job):
            events.append(session, row.id, "requeued" if row.status == JobStatus.QUEUED else row.status, event)
        elif row.status == "failed":
            _tell(session, model, row.id)
    return waiting


def _take_over(row: LeasedRow, model: LeasedModel, attempts_left: bool, now: datetime) -> None:
    if isinstance(row, Job):
        row.status = TRANSITIONS[JobStatus(row.status)][Action.LOSE if attempts_left else Action.GIVE_UP]
        if row.claimed_at is not None and row.lease_expires_at is not None:
            row.seconds_used += max(0.0, (min(now, row.lease_expires_at) - row.claimed_at).total_seconds())
        row.claimed_at = None
    else:
        row.status = WAITING[model] if attempts_left else "failed"
    row.lease_token = row.lease_expires_at = None


def unclaimed(session: Session, model: LeasedModel, older_than_seconds: float) -> list[str]:
    """Rows that wait although their last message is older than this: send it again after the commit.

    Each is returned once in that time, and MOST_WOKEN at once, so that a long queue is not flooded with messages.
    """
    before = func.now() - timedelta(seconds=older_than_seconds)
    silent = or_(model.woken_at < before, model.woken_at.is_(None) & (model.created_at < before))
    chosen = select(model.id).where(model.status == WAITING[model], model.lease_token.is_(None), silent)
    # Locked rows are being claimed or changed right now.
    chosen = chosen.order_by(model.id).limit(MOST_WOKEN).with_for_update(skip_locked=True)
    woken = update(model).where(model.id.in_(chosen.scalar_subquery())).values(woken_at=func.now())
    return sorted(session.scalars(woken.returning(model.id)))
