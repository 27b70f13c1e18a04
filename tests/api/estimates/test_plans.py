"""What a dry run tells beside the resolved job: what it needs, which a worker computes, and how long it takes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from difffit_core.planning.estimate import Estimate as Needs
from difffit_core.planning.estimate import Memory
from jobstore.estimates import service as estimates
from jobstore.jobs import events
from jobstore.kit import leases
from jobstore.kit.tables import Estimate, Job, Tenant
from tests.api.conftest import Rows
from tests.waiting import wait_for

DEVICE = "a GPU of the test"
MEMORY = Memory(
    frozen_weights=1000,
    trained_values=10,
    gradients=10,
    optimizer=20,
    ema=10,
    examples=40,
    activations_fixed=5,
    activations_per_example=6,
    allocator=0,
    total=1200,
    error=0.1,
)
NEEDS = Needs(
    device=DEVICE,
    device_bytes=10_000,
    trained_parameters=12,
    total_parameters=1000,
    adapter_bytes=48,
    memory=MEMORY,
    micro_batch_size=32,
    largest_micro_batch_size=16,
)
Plan = Callable[..., dict[str, Any]]


@pytest.fixture
def plan(client: TestClient, rows: Rows) -> Plan:
    dataset = rows.dataset().id

    def ask(wait: int = 0, **hyperparameters: Any) -> dict[str, Any]:
        body = {"base_model": "emoji-dit", "dataset": dataset, "hyperparameters": hyperparameters}
        answer = client.post("/jobs", params={"dry_run": "true"}, json=body, headers={"prefer": f"wait={wait}"})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return ask


@contextmanager
def worker(sessions: sessionmaker[Session], status: str, **ending: Any) -> Iterator[None]:
    """Ends the estimate that comes to wait, as a worker does."""

    def work() -> None:
        estimate_id = wait_for(lambda: waiting(sessions) or "")
        with sessions.begin() as session:
            token = leases.claim(session, Estimate, estimate_id, 60)
            assert token is not None
            assert leases.finish(session, Estimate, estimate_id, token, status, **ending)
            events.notify(session, "estimate", estimate_id)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def waiting(sessions: sessionmaker[Session]) -> str | None:
    with sessions() as session:
        return session.scalar(select(Estimate.id).where(Estimate.status == "queued"))


def test_a_plan_waits_for_its_estimate_which_serves_every_plan_alike(
    plan: Plan, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.estimates.plans.RECHECK_SECONDS", 60.0)  # the notification alone wakes it
    began = time.monotonic()
    with worker(sessions, "succeeded", result=NEEDS.model_dump(mode="json")):
        answer = plan(wait=60)
    assert answer["estimate"] == NEEDS.model_dump(mode="json")
    assert answer["no_estimate"] is None
    assert time.monotonic() < began + 50
    assert plan(wait=60, learning_rate=1e-5, steps=9)["estimate"] == answer["estimate"]
    assert plan(batch_size=8)["estimate"] is None
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Estimate)) == 2
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_without_a_worker_the_plan_says_so(plan: Plan, sessions: sessionmaker[Session]) -> None:
    answer = plan()
    assert answer["plan"]["hyperparameters"]["batch_size"] == 20
    assert answer["estimate"] is None
    assert "Ask again" in answer["no_estimate"]
    assert waiting(sessions) is not None
    plan()
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Estimate)) == 1


def test_what_cannot_be_computed_is_null_with_the_reason(plan: Plan, sessions: sessionmaker[Session]) -> None:
    error = {"code": "invalid_model", "message": "The transformer of x cannot be loaded.", "param": None}
    with worker(sessions, "failed", error=error):
        answer = plan(wait=60)
    assert (answer["estimate"], answer["no_estimate"]) == (None, error["message"])


def test_a_tenant_with_many_that_wait_queues_no_more_and_holds_up_nobody(
    plan: Plan, client: TestClient, sessions: sessionmaker[Session], tenant: Tenant, stranger: dict[str, str]
) -> None:
    with sessions.begin() as session:
        for number in range(estimates.MOST_WAITING):
            estimates.find_or_queue(session, tenant.id, f"k{number}", {})
    assert "10 plans of your tenant" in plan(wait=60)["no_estimate"]
    with sessions.begin() as session:
        another = session.scalars(select(Tenant).where(Tenant.name == "another")).one()
        dataset = Rows(sessions, another).dataset().id
    body = {"base_model": "emoji-dit", "dataset": dataset}
    answer = client.post("/jobs", params={"dry_run": "true"}, json=body, headers=stranger | {"prefer": "wait=0"})
    assert "No worker has computed it yet" in answer.json()["no_estimate"]
    assert "No worker has computed it yet" in plan()["no_estimate"]  # the other tenant's serves both


def trained(rows: Rows, client: TestClient, rate: float, device: str = DEVICE, **hyperparameters: Any) -> None:
    """A job that has trained so many examples a second."""
    body = {"base_model": "emoji-dit", "dataset": rows.dataset().id, "hyperparameters": hyperparameters}
    job_id = client.post("/jobs", json=body).json()["id"]
    with rows.sessions.begin() as session:
        job = session.get_one(Job, job_id)
        job.status, job.samples_per_second, job.started_at = "succeeded", rate, func.now()
        events.append(session, job_id, "started", {"device": "cuda", "device_name": device})


def test_the_time_is_that_of_the_tenants_last_jobs_alike(
    plan: Plan, rows: Rows, client: TestClient, sessions: sessionmaker[Session]
) -> None:
    answer = plan(batch_size=8, steps=100)
    assert answer["duration"] is None
    assert "None of your jobs" in answer["no_duration"]
    for rate in (4.0, 8.0, 16.0):
        trained(rows, client, rate, batch_size=8, steps=7)
    trained(rows, client, 1000.0, batch_size=16)
    duration = plan(batch_size=8, steps=100)["duration"]
    assert (duration["seconds_per_step"], duration["total_seconds"], duration["jobs"]) == (1.0, 100.0, 3)
    assert duration["device"] == DEVICE
    for _ in range(3):
        trained(rows, client, 80.0, device="another GPU", batch_size=8)
    assert plan(batch_size=8, steps=100)["duration"]["seconds_per_step"] == 0.1
    # Once it is known which device the job is for, only what ran there counts.
    with worker(sessions, "succeeded", result=NEEDS.model_dump(mode="json")):
        assert plan(wait=60, batch_size=8, steps=100)["duration"]["seconds_per_step"] == 1.0


def test_another_tenants_jobs_tell_nothing(rows: Rows, client: TestClient, stranger: dict[str, str], plan: Plan) -> None:
    with rows.sessions() as session:
        other = session.scalars(select(Tenant).where(Tenant.name == "another")).one()
    theirs = Rows(rows.sessions, other)
    body = {"base_model": "emoji-dit", "dataset": theirs.dataset().id, "hyperparameters": {"batch_size": 8}}
    trained(rows, client, 8.0, batch_size=8)
    answer = client.post("/jobs?dry_run=true", json=body, headers=stranger | {"prefer": "wait=0"}).json()
    assert (answer["duration"], plan(batch_size=8)["duration"]["jobs"]) == (None, 1)
