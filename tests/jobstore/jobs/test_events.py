"""Events are numbered without gaps however many write at once, and listeners hear of them after the commit."""

import json
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs import events
from jobstore.kit.errors import NotFoundError
from jobstore.kit.settings import Settings
from jobstore.kit.tables import JobEvent, Tenant
from tests.jobstore.rows import add_job

WRITERS, EACH = 6, 10


def test_sequences_have_no_gaps_under_concurrency(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    with sessions.begin() as session:
        job_id = add_job(session, tenant).id

    def write(writer: int) -> list[int]:
        sequences = []
        for number in range(EACH):
            with sessions.begin() as session:
                sequences.append(events.append(session, job_id, "progress", {"writer": writer, "number": number}).sequence)
        return sequences

    with ThreadPoolExecutor(WRITERS) as pool:
        written = list(pool.map(write, range(WRITERS)))
    assert sorted(sequence for sequences in written for sequence in sequences) == list(range(1, WRITERS * EACH + 1))
    assert all(sequences == sorted(sequences) for sequences in written)
    with sessions() as session:
        stored = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.sequence)).all()
    assert [event.sequence for event in stored] == list(range(1, WRITERS * EACH + 1))


def test_listeners_hear_of_committed_changes_only(sessions: sessionmaker[Session], tenant: Tenant, settings: Settings) -> None:
    with sessions.begin() as session:
        job_id = add_job(session, tenant).id
    address = settings.database_url.get_secret_value().replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as listener:
        listener.execute(f"LISTEN {events.CHANNEL}")
        with sessions() as session:
            events.append(session, job_id, "progress", {"step": 1})
            session.rollback()
        with sessions.begin() as session:
            event = events.append(session, job_id, "progress", {"step": 2})
            events.notify(session, "generation", "gen_1")
        assert event.sequence == 1
        assert event.created_at is not None
        heard = [json.loads(notice.payload) for notice in listener.notifies(timeout=10, stop_after=2)]
    assert heard == [{"job": job_id}, {"generation": "gen_1"}]


def test_an_event_needs_its_job(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session, pytest.raises(NotFoundError):
        events.append(session, "job_none", "progress", {})
