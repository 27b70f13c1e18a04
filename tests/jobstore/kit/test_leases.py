"""Leases against a real database: one winner, no write without the lease, nothing lost with a worker."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs.lifecycle import Action, JobStatus, request
from jobstore.kit import leases
from jobstore.kit.tables import Dataset, Generation, Job, Tenant
from tests.jobstore.rows import add_dataset, add_generation, add_job, event_types

Sessions = sessionmaker[Session]
S = JobStatus


def new_job(sessions: Sessions, tenant: Tenant, status: str = "queued") -> str:
    with sessions.begin() as session:
        return add_job(session, tenant, status).id


def claim(sessions: Sessions, job_id: str, lease_seconds: float = 60) -> UUID | None:
    with sessions.begin() as session:
        return leases.claim(session, Job, job_id, lease_seconds)


def read(sessions: Sessions, job_id: str) -> Job:
    with sessions() as session:
        return session.get_one(Job, job_id)


def test_of_many_workers_one_gets_the_job(sessions: Sessions, tenant: Tenant) -> None:
    job_id = new_job(sessions, tenant)
    with ThreadPoolExecutor(8) as pool:
        tokens = [token for token in pool.map(lambda _: claim(sessions, job_id), range(8)) if token]
    assert len(tokens) == 1
    job = read(sessions, job_id)
    assert (job.status, job.attempt, job.lease_token) == ("running", 1, tokens[0])
    assert job.started_at is not None


def test_a_stale_token_writes_nothing(sessions: Sessions, tenant: Tenant) -> None:
    job_id = new_job(sessions, tenant)
    token = claim(sessions, job_id)
    assert token is not None
    with sessions.begin() as session:
        assert leases.write(session, Job, job_id, token, step=3)
        assert not leases.write(session, Job, job_id, uuid4(), step=9)
        assert not leases.renew(session, Job, job_id, uuid4(), 60)
        assert not leases.stop(session, job_id, uuid4(), "")
        assert not leases.finish(session, Job, job_id, uuid4(), "succeeded")
    job = read(sessions, job_id)
    assert (job.status, job.step, job.lease_token) == ("running", 3, token)


def test_renewing_moves_the_expiry_on(sessions: Sessions, tenant: Tenant) -> None:
    job_id = new_job(sessions, tenant)
    token = claim(sessions, job_id, lease_seconds=1)
    assert token is not None
    before = read(sessions, job_id).lease_expires_at
    with sessions.begin() as session:
        assert leases.renew(session, Job, job_id, token, 60)
    after = read(sessions, job_id).lease_expires_at
    assert before is not None
    assert after is not None
    assert (after - before).total_seconds() > 50


def test_a_released_job_waits_again_and_the_attempt_does_not_count(sessions: Sessions, tenant: Tenant) -> None:
    job_id = new_job(sessions, tenant)
    token = claim(sessions, job_id)
    assert token is not None
    with sessions.begin() as session:
        assert leases.stop(session, job_id, token, "stopped") is S.QUEUED
    job = read(sessions, job_id)
    assert (job.status, job.attempt, job.lease_token, job.lease_expires_at) == ("queued", 0, None, None)
    assert event_types(sessions, job_id) == ["requeued"]
    assert claim(sessions, job_id) is not None


def test_an_expired_lease_is_taken_over_until_the_attempts_are_used_up(sessions: Sessions, tenant: Tenant) -> None:
    job_id = new_job(sessions, tenant)
    for attempt in (1, 2, 3):
        lost = claim(sessions, job_id, lease_seconds=-1)
        assert lost is not None
        with sessions.begin() as session:
            assert leases.expired(session, Job, max_attempts=3) == ([job_id] if attempt < 3 else [])
        with sessions.begin() as session:
            assert not leases.write(session, Job, job_id, lost, step=99)
    job = read(sessions, job_id)
    assert (job.status, job.step, job.attempt) == ("failed", 0, 3)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert job.finished_at is not None
    assert event_types(sessions, job_id) == ["requeued", "requeued", "failed"]


def test_a_lease_that_holds_is_left_alone(sessions: Sessions, tenant: Tenant) -> None:
    job_id = new_job(sessions, tenant)
    claim(sessions, job_id, lease_seconds=60)
    with sessions.begin() as session:
        assert leases.expired(session, Job, max_attempts=3) == []
    assert read(sessions, job_id).status == "running"


@pytest.mark.parametrize(
    ("model", "add", "waiting"),
    [
        (Dataset, lambda session, tenant: add_dataset(session, tenant, "checking"), "checking"),
        (Generation, add_generation, "queued"),
    ],
)
def test_datasets_and_generations_are_leased_alike(
    sessions: Sessions, tenant: Tenant, model: leases.LeasedModel, add: Callable[[Session, Tenant], Dataset], waiting: str
) -> None:
    with sessions.begin() as session:
        row_id = add(session, tenant).id
    for _ in range(2):
        with sessions.begin() as session:
            token = leases.claim(session, model, row_id, -1)
            assert token is not None
            assert leases.claim(session, model, row_id, 60) is None
        with sessions.begin() as session:
            left = leases.expired(session, model, max_attempts=2)
    assert left == []
    with sessions() as session:
        row = session.get_one(model, row_id)
        assert isinstance(row, Dataset | Generation)
        assert row.status == "failed"
        assert row.error is not None
        assert row.error["code"] == "worker_lost"
    with sessions.begin() as session:
        other = add(session, tenant)
        assert other.status == waiting
        token = leases.claim(session, model, other.id, 60)
        assert token is not None
        assert leases.finish(session, model, other.id, token, "failed", error={"code": "x"})
        assert not leases.finish(session, model, other.id, token, "failed")


@pytest.mark.parametrize(("asked", "ends"), [("cancelling", "cancelled"), ("pausing", "paused")])
def test_a_request_is_kept_when_the_worker_is_lost(sessions: Sessions, tenant: Tenant, asked: str, ends: str) -> None:
    job_id = new_job(sessions, tenant)
    claim(sessions, job_id, lease_seconds=-1)
    with sessions.begin() as session:
        session.get_one(Job, job_id).status = asked
    with sessions.begin() as session:
        assert leases.expired(session, Job, max_attempts=3) == []
    assert read(sessions, job_id).status == ends
    assert event_types(sessions, job_id) == [ends]


def test_a_claim_and_a_cancel_at_once_leave_one_truth(sessions: Sessions, tenant: Tenant) -> None:
    def cancel(job_id: str) -> str:
        with sessions.begin() as session:
            job = session.get_one(Job, job_id)
            request(session, job, Action.CANCEL)
            return job.status

    for _ in range(10):
        job_id = new_job(sessions, tenant)
        with ThreadPoolExecutor(2) as pool:
            token, answer = pool.submit(claim, sessions, job_id), pool.submit(cancel, job_id)
        expected = S.CANCELLED if token.result() is None else S.CANCELLING
        assert answer.result() == expected
        assert read(sessions, job_id).status == expected


def test_a_waiting_row_gets_one_message_in_a_period(sessions: Sessions, tenant: Tenant) -> None:
    waiting, running = new_job(sessions, tenant), new_job(sessions, tenant)
    claim(sessions, running)
    with sessions.begin() as session:
        assert leases.unclaimed(session, Job, older_than_seconds=60) == []
    with sessions.begin() as session:
        assert leases.unclaimed(session, Job, older_than_seconds=0) == [waiting]
    with sessions.begin() as session:
        assert leases.unclaimed(session, Job, older_than_seconds=60) == []


def test_the_time_with_workers_is_added_up(sessions: Sessions, tenant: Tenant) -> None:
    """The time of a lost worker ends with its lease, not when somebody notices."""
    job_id = new_job(sessions, tenant)
    for lost, total in ((False, 10), (True, 17)):
        token = claim(sessions, job_id)
        assert token is not None
        with sessions.begin() as session:
            lease = {"claimed_at": func.now() - timedelta(seconds=10)}
            lease |= {"lease_expires_at": func.now() - timedelta(seconds=3)} if lost else {}
            session.execute(update(Job).values(lease))
        with sessions.begin() as session:
            if lost:
                assert leases.expired(session, Job, max_attempts=3) == [job_id]
            else:
                assert leases.stop(session, job_id, token, "stopped")
        job = read(sessions, job_id)
        assert (round(job.seconds_used), job.claimed_at) == (total, None)


def test_only_some_of_a_long_queue_are_woken_at_once(
    sessions: Sessions, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "MOST_WOKEN", 2)
    ids = sorted(new_job(sessions, tenant) for _ in range(3))
    with sessions.begin() as session:
        assert leases.unclaimed(session, Job, older_than_seconds=0) == ids[:2]
