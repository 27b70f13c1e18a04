"""The order in which waiting jobs are taken: tenants in turn, priorities within a tenant, and the same at any length."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs import queue
from jobstore.jobs.lifecycle import JobStatus
from jobstore.kit import leases
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Dataset, Job, Tenant
from jobstore.tenants.keys import install_key
from tests.jobstore.rows import add_dataset

Sessions = sessionmaker[Session]
S = JobStatus


@pytest.fixture
def tenants(sessions: Sessions) -> list[Tenant]:
    with sessions.begin() as session:
        return [install_key(session, f"key-of-tenant-{name}-0123456789", name) for name in "abc"]


def add_jobs(sessions: Sessions, tenant: Tenant, *priorities: int) -> list[str]:
    """Waiting jobs of these priorities, oldest first."""
    ids = sorted(new_id("job") for _ in priorities)
    with sessions.begin() as session:
        dataset = session.scalar(select(Dataset).where(Dataset.tenant_id == tenant.id)) or add_dataset(session, tenant)
        common: dict[str, Any] = {
            "tenant_id": tenant.id,
            "dataset_id": dataset.id,
            "status": S.QUEUED,
            "base_model": "emoji-dit",
        }
        common |= {"spec": {}, "training_spec": {}, "total_steps": 10}
        rows = [common | {"id": job_id, "priority": priority} for job_id, priority in zip(ids, priorities, strict=True)]
        if rows:
            session.execute(insert(Job), rows)
    return ids


def take(sessions: Sessions) -> str | None:
    with sessions.begin() as session:
        claimed = queue.claim_next(session, 60)
    return claimed and claimed[0]


def end(sessions: Sessions, job_id: str) -> None:
    with sessions.begin() as session:
        token = session.get_one(Job, job_id).lease_token
        assert token is not None
        assert leases.finish(session, Job, job_id, token, S.SUCCEEDED)


def test_a_hundred_jobs_of_one_tenant_do_not_starve_anothers_one(sessions: Sessions, tenants: list[Tenant]) -> None:
    many = add_jobs(sessions, tenants[0], *[100] * 100)
    running = take(sessions)
    assert running == many[0]
    one = add_jobs(sessions, tenants[1], -100)[0]
    end(sessions, running)
    assert take(sessions) == one
    assert take(sessions) == many[1]


def test_the_tenant_with_fewer_jobs_at_work_comes_first(sessions: Sessions, tenants: list[Tenant]) -> None:
    first, second = add_jobs(sessions, tenants[0], 0, 0, 0), add_jobs(sessions, tenants[1], 0, 0, 0)
    assert [take(sessions) for _ in range(4)] == [first[0], second[0], first[1], second[1]]
    end(sessions, second[0])
    end(sessions, second[1])
    assert [take(sessions), take(sessions)] == [second[2], first[2]]


def test_priority_then_age_decide_among_a_tenants_own(sessions: Sessions, tenants: list[Tenant]) -> None:
    low, high, also_high, middle = add_jobs(sessions, tenants[0], -1, 5, 5, 0)
    assert [take(sessions) for _ in range(5)] == [high, also_high, middle, low, None]


def test_the_place_in_the_queue_is_the_order_in_which_jobs_are_taken(sessions: Sessions, tenants: list[Tenant]) -> None:
    """Whatever was at work or served before; while nothing ends."""
    random.seed(1)
    for _ in range(8):
        with sessions.begin() as session:
            session.execute(update(Job).values(status=S.SUCCEEDED, lease_token=None, lease_expires_at=None))
        for tenant in tenants:
            add_jobs(sessions, tenant, *random.choices(range(3), k=random.randrange(4)))
        for _ in range(random.randrange(4)):
            take(sessions)
        for tenant in tenants:
            add_jobs(sessions, tenant, *random.choices(range(3), k=random.randrange(4)))
        with sessions() as session:
            waiting = list(session.scalars(select(Job.id).where(Job.status == S.QUEUED)))
            places = queue.positions(session, waiting)
            assert {job_id: queue.positions(session, [job_id])[job_id] for job_id in waiting} == places
        assert sorted(places.values()) == list(range(1, len(waiting) + 1))
        assert [take(sessions) for _ in waiting] == sorted(places, key=lambda job_id: places[job_id])


def test_workers_that_look_at_once_get_different_jobs(sessions: Sessions, tenants: list[Tenant]) -> None:
    ids = add_jobs(sessions, tenants[0], *[0] * 4) + add_jobs(sessions, tenants[1], *[0] * 4)
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: take(sessions), range(10)))
    assert sorted(job_id for job_id in taken if job_id) == sorted(ids)
    assert taken.count(None) == 2


def test_a_long_queue_is_no_slower(sessions: Sessions, tenants: list[Tenant]) -> None:
    """Within one run on one machine: the median claim at 10,000 waiting jobs against that at 10."""

    def median_claim() -> float:
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            job_id = take(sessions)
            seconds.append(time.perf_counter() - began)
            assert job_id is not None
            end(sessions, job_id)
        return sorted(seconds)[3]

    add_jobs(sessions, tenants[0], *[0] * 20)
    short = median_claim()
    add_jobs(sessions, tenants[0], *range(10_000))
    assert median_claim() < 10 * short
