"""The state machine of a job: every action in every status, on a real database."""

from uuid import uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs.lifecycle import ACTORS, TERMINAL, TRANSITIONS, WITH_WORKER, Action, Actor, JobStatus, request
from jobstore.kit import leases
from jobstore.kit.errors import ConflictError
from jobstore.kit.tables import Dataset, Job, Tenant
from tests.jobstore.rows import add_job, event_types

Sessions = sessionmaker[Session]
S, A = JobStatus, Action
MAX_ATTEMPTS = 3


def job_in(sessions: Sessions, tenant: Tenant, status: JobStatus, attempt: int = 1) -> Job:
    """A job in a status, with a lease that has expired where a worker has it."""
    with sessions.begin() as session:
        job, now = add_job(session, tenant, status), session.scalar(select(func.now()))
        job.attempt = attempt
        if status in WITH_WORKER:
            job.lease_token, job.lease_expires_at = uuid4(), now
        if status in TERMINAL:
            job.finished_at = now
    return job


def take(sessions: Sessions, job: Job, action: Action) -> None:
    """What the API, a worker or the sweeper does."""
    token = job.lease_token or uuid4()
    with sessions.begin() as session:
        match action:
            case A.CANCEL | A.PAUSE | A.RESUME | A.RETRY:
                request(session, session.get_one(Job, job.id), action)
            case A.CLAIM:
                leases.claim(session, Job, job.id, 60)
            case A.STOP:
                leases.stop(session, job.id, token, "stopped")
            case A.SUCCEED:
                leases.finish(session, Job, job.id, token, S.SUCCEEDED)
            case A.FAIL:
                leases.finish(session, Job, job.id, token, S.FAILED)
            case A.LOSE | A.GIVE_UP:
                leases.expired(session, Job, MAX_ATTEMPTS)


@pytest.mark.parametrize("action", A)
def test_every_action_in_every_status_does_what_the_table_says(sessions: Sessions, tenant: Tenant, action: Action) -> None:
    for before in S:
        job = job_in(sessions, tenant, before, MAX_ATTEMPTS if action is A.GIVE_UP else 1)
        allowed = action in TRANSITIONS[before]
        if ACTORS[action] is Actor.USER and not allowed:
            with pytest.raises(ConflictError):
                take(sessions, job, action)
        else:
            take(sessions, job, action)
        after = TRANSITIONS[before].get(action, before)
        with sessions() as session:
            now = session.get_one(Job, job.id)
        assert now.status == after, (before, action)
        assert (now.finished_at is not None) == (after in TERMINAL), (before, action)
        assert (now.lease_token is not None) == (after in WITH_WORKER), (before, action)
        tells = ACTORS[action] is not Actor.WORKER or action is A.STOP  # the supervisor tells of the others itself
        assert len(event_types(sessions, job.id)) == (allowed and after is not before and tells), (before, action)
        with sessions.begin() as session:
            session.get_one(Job, job.id).lease_expires_at = None  # the next sweep is about the next job


def test_every_status_but_success_can_be_left_and_every_action_has_somebody_who_takes_it() -> None:
    assert {status for status, actions in TRANSITIONS.items() if not actions} == {S.VALIDATING, S.SUCCEEDED}
    assert set(ACTORS) == set(A)
    reached, frontier = {S.QUEUED}, [S.QUEUED]
    while frontier:
        frontier = [after for status in frontier for after in TRANSITIONS[status].values() if after not in reached]
        reached |= set(frontier)
    assert reached == set(S) - {S.VALIDATING}


def test_only_a_worker_makes_a_job_succeed_and_a_terminal_status_is_left_by_users_only() -> None:
    for status, actions in TRANSITIONS.items():
        for action, after in actions.items():
            if after is S.SUCCEEDED:
                assert ACTORS[action] is Actor.WORKER
            if status in TERMINAL:
                assert ACTORS[action] is Actor.USER


@pytest.mark.parametrize(
    ("status", "action", "code"),
    [
        (S.SUCCEEDED, A.CANCEL, "job_already_ended"),
        (S.FAILED, A.PAUSE, "job_already_ended"),
        (S.CANCELLED, A.RESUME, "job_already_ended"),
        (S.SUCCEEDED, A.RETRY, "job_already_succeeded"),
        (S.RUNNING, A.RETRY, "job_not_ended"),
        (S.PAUSING, A.RESUME, "job_pausing"),
        (S.CANCELLING, A.PAUSE, "job_cancelling"),
    ],
)
def test_a_refusal_says_why(sessions: Sessions, tenant: Tenant, status: JobStatus, action: Action, code: str) -> None:
    with pytest.raises(ConflictError) as refused:
        take(sessions, job_in(sessions, tenant, status), action)
    assert refused.value.code == code


def test_a_retry_starts_the_count_of_attempts_and_the_clock_again(sessions: Sessions, tenant: Tenant) -> None:
    job = job_in(sessions, tenant, S.FAILED, MAX_ATTEMPTS)
    with sessions.begin() as session:
        session.get_one(Job, job.id).seconds_used = 100.0
        session.get_one(Job, job.id).error = {"code": "worker_lost", "message": "", "param": None}
    take(sessions, job, A.RETRY)
    with sessions() as session:
        now = session.get_one(Job, job.id)
    assert (now.status, now.attempt, now.seconds_used, now.error) == ("queued", 0, 0.0, None)
    assert event_types(sessions, job.id) == ["retried"]


def test_a_job_whose_dataset_is_deleted_cannot_be_retried(sessions: Sessions, tenant: Tenant) -> None:
    job = job_in(sessions, tenant, S.FAILED)
    with sessions.begin() as session:
        session.get_one(Dataset, job.dataset_id).status = "deleted"
    with pytest.raises(ConflictError) as refused:
        take(sessions, job, A.RETRY)
    assert refused.value.code == "dataset_deleted"
