"""The append-only events of a job, and the notifications that wake whoever waits for a change.

Listeners run `LISTEN difffit`; the payload is {kind: id}. PostgreSQL delivers it at the commit.
"""

import json
from collections.abc import Iterable
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from jobstore.kit.database import insert_rows
from jobstore.kit.errors import NotFoundError
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Job, JobEvent, Json
from jobstore.webhooks import deliveries as webhooks

CHANNEL = "difffit"
ENDS = frozenset({"succeeded", "failed", "cancelled"})  # events that are named like the status a job ends in
Kind = Literal["job", "generation", "estimate", "key", "asked"]  # "asked": of a job, for its worker
# Part of the statement that makes the jobs, which is given them as `first_events`.
FIRST = insert_rows(JobEvent, "first_events", "id", "job_id", "sequence", "type", "data").cte("begun")


def first_events(job_ids: Iterable[str], type: str) -> str:
    """The events that jobs begin with, for `FIRST`. Listeners are not told: nobody can wait for these jobs yet."""
    return json.dumps([{"id": new_id("evt"), "job_id": job_id, "sequence": 1, "type": type, "data": {}} for job_id in job_ids])


def append(session: Session, job_id: str, type: str, data: Json, event_id: str | None = None) -> JobEvent:
    """Write the job's next event and notify listeners; both take effect at the commit. Raises NotFoundError without the job.

    The job's row stays locked until the commit, so sequences have no gaps and are committed in order. Whoever writes again
    because a commit was not answered names the event's id: an event that is there already is not written twice.
    """
    locked = session.scalar(select(Job.id).where(Job.id == job_id).with_for_update(key_share=True))
    if locked is None:
        raise NotFoundError(f"There is no job {job_id!r}.", param="job")
    if event_id is not None and (written := session.get(JobEvent, event_id)) is not None:
        return written
    last = session.scalar(select(func.max(JobEvent.sequence)).where(JobEvent.job_id == job_id))
    event = JobEvent(id=event_id or new_id("evt"), job_id=job_id, sequence=(last or 0) + 1, type=type, data=data)
    session.add(event)
    session.flush()
    notify(session, "job", job_id)
    if type in ENDS:
        webhooks.announce(session, job_id)
    return event


def notify(session: Session, kind: Kind, row_id: str) -> None:
    """Tell listeners, at the commit, that a row has changed."""
    session.execute(select(func.pg_notify(CHANNEL, json.dumps({kind: row_id}))))
