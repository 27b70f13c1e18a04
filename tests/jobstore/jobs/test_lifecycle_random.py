"""Random lives of jobs on a real database, compared step by step with a model of what may be true."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs import queue
from jobstore.jobs.lifecycle import TERMINAL, TRANSITIONS, WITH_WORKER, Action, JobStatus, request
from jobstore.kit import leases
from jobstore.kit.errors import ConflictError
from jobstore.kit.tables import Job, JobEvent, Tenant
from tests.jobstore.rows import add_job

S, A = JobStatus, Action
MAX_ATTEMPTS = 2
Held = tuple[str, UUID]  # a job and a token that was valid for it once


@dataclass
class Life:
    """What the model knows of a job."""

    status: JobStatus = S.QUEUED
    attempt: int = 0
    step: int = 0
    token: UUID | None = None
    expired: bool = False

    def go(self, action: Action) -> None:
        self.status = TRANSITIONS[self.status][action]
        if self.status not in WITH_WORKER:
            self.token, self.expired = None, False


class Lives(RuleBasedStateMachine):
    """Users, workers, zombies and the sweeper act in any order."""

    jobs: Bundle[str] = Bundle("jobs")
    tokens: Bundle[Held] = Bundle("tokens")

    def __init__(self, sessions: sessionmaker[Session], tenant: Tenant) -> None:
        super().__init__()
        self.sessions, self.tenant = sessions, tenant
        self.lives: dict[str, Life] = {}

    @rule(target=jobs)
    def post(self) -> str:
        with self.sessions.begin() as session:
            job_id = add_job(session, self.tenant).id
        self.lives[job_id] = Life()
        return job_id

    @rule(job=jobs, action=st.sampled_from([A.CANCEL, A.PAUSE, A.RESUME, A.RETRY]))
    def user(self, job: str, action: Any) -> None:
        life = self.lives[job]
        with self.sessions.begin() as session:
            if action not in TRANSITIONS[life.status]:
                with pytest.raises(ConflictError):
                    request(session, session.get_one(Job, job), action)
                return
            changed = request(session, session.get_one(Job, job), action)
        assert changed == (TRANSITIONS[life.status][action] is not life.status)
        life.go(action)
        if action is A.RETRY:
            life.attempt = 0

    @rule(target=tokens)
    def worker_claims(self) -> Held:
        with self.sessions.begin() as session:
            claimed = queue.claim_next(session, 60)
        waiting = sorted(job for job, life in self.lives.items() if life.status is S.QUEUED)
        assert (claimed and claimed[0]) == next(iter(waiting), None)
        if claimed is None:
            return "", UUID(int=0)
        life = self.lives[claimed[0]]
        life.go(A.CLAIM)
        life.attempt, life.token = life.attempt + 1, claimed[1]
        return claimed

    def owns(self, held: Held) -> bool:
        job, token = held
        return job in self.lives and self.lives[job].token == token

    @rule(held=tokens, step=st.integers(1, 100))
    def worker_or_zombie_writes(self, held: Held, step: int) -> None:
        with self.sessions.begin() as session:
            assert leases.write(session, Job, *held, step=step) == self.owns(held)
        if self.owns(held):
            self.lives[held[0]].step = step

    @rule(held=consumes(tokens), action=st.sampled_from([A.STOP, A.SUCCEED, A.FAIL]))
    def worker_or_zombie_ends(self, held: Held, action: Action) -> None:
        with self.sessions.begin() as session:
            if action is A.STOP:
                done = leases.stop(session, *held, "stopped") is not None
            else:
                done = leases.finish(session, Job, *held, S.SUCCEEDED if action is A.SUCCEED else S.FAILED)
        assert done == self.owns(held)
        if done:
            life = self.lives[held[0]]
            life.go(action)
            life.attempt -= action is A.STOP

    @rule(held=tokens)
    def lease_runs_out(self, held: Held) -> None:
        if self.owns(held):
            self.lives[held[0]].expired = True
            with self.sessions.begin() as session:
                past = func.now() - timedelta(seconds=1)
                session.execute(update(Job).where(Job.id == held[0]).values(lease_expires_at=past))

    @rule()
    def sweep(self) -> None:
        with self.sessions.begin() as session:
            waiting = leases.expired(session, Job, MAX_ATTEMPTS)
        for life in self.lives.values():
            if life.expired:
                life.go(A.LOSE if life.attempt < MAX_ATTEMPTS else A.GIVE_UP)
        assert all(self.lives[job].status is S.QUEUED for job in waiting)

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        numbers = func.array_agg(JobEvent.sequence)
        with self.sessions() as session:
            rows = session.scalars(select(Job).where(Job.id.in_(self.lives))).all()
            of_lives = select(numbers).where(JobEvent.job_id.in_(self.lives)).group_by(JobEvent.job_id)
            sequences = session.scalars(of_lives).all()
        for row in rows:
            life = self.lives[row.id]
            assert (row.status, row.attempt, row.step, row.lease_token) == (life.status, life.attempt, life.step, life.token)
            assert (row.finished_at is not None) == (life.status in TERMINAL)
        assert all(sorted(found) == list(range(1, len(found) + 1)) for found in sequences)

    def teardown(self) -> None:
        """Nothing waits for the next life's workers."""
        over = {"status": S.SUCCEEDED, "lease_token": None, "lease_expires_at": None, "finished_at": func.now()}
        with self.sessions.begin() as session:
            session.execute(update(Job).values(over))


def test_random_lives(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    run_state_machine_as_test(
        lambda: Lives(sessions, tenant),  # type: ignore[arg-type]  # any callable will do
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        ),
    )
