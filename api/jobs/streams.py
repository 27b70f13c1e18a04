"""A job's events as Server-Sent Events: what was missed first, then each as it happens, until the job or the key ends."""

import json
from collections.abc import AsyncIterator, Sequence

from sqlalchemy import Select, select

from api.kit.dependencies import Resources
from api.kit.keyring import KeyWatch
from api.kit.notifications import wait
from jobstore.jobs.lifecycle import TERMINAL
from jobstore.kit.tables import Job, JobEvent

BATCH = 500  # events read at once
PING_SECONDS = 15.0  # proxies close a connection that is silent for a minute
PING = b": ping\n\n"


def events_after(job_id: str, sequence: int) -> Select[JobEvent]:
    return select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.sequence > sequence).order_by(JobEvent.sequence)


async def stream_events(resources: Resources, key: KeyWatch, job_id: str, sequence: int) -> AsyncIterator[bytes]:
    """Every event after `sequence`; ends after the last event of a job that has ended, and with the caller's key."""
    with resources.notifications.subscribe(("job", job_id), ("key", key.key_id)) as changed:
        while True:
            changed.clear()
            if not await key.opens():
                return
            ended, events = await resources.turns.run(_read, resources, job_id, sequence)
            for event in events:
                yield _format(event)
                sequence = event.sequence
            if len(events) == BATCH:
                continue
            if ended:
                return
            # Nothing is asked of the database until it has told of a change.
            while not await wait(changed, min(PING_SECONDS, key.seconds_left)) and key.seconds_left:
                yield PING


def _read(resources: Resources, job_id: str, sequence: int) -> tuple[bool, Sequence[JobEvent]]:
    """Whether the job has ended, read before the events: so the events of its end are never missed."""
    with resources.reading() as session:
        ended = session.scalar(select(Job.status).where(Job.id == job_id)) in TERMINAL
        return ended, session.scalars(events_after(job_id, sequence).limit(BATCH)).all()


def _format(event: JobEvent) -> bytes:
    return f"id: {event.sequence}\nevent: {event.type}\ndata: {json.dumps(event.data)}\n\n".encode()
