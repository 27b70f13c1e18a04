"""Webhooks against a real receiver: what is told, how it is signed, when it is tried again, and where it never goes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook as Signer

from jobstore.jobs import events
from jobstore.kit import leases
from jobstore.kit.ids import new_id
from jobstore.kit.settings import Settings, get_settings
from jobstore.kit.tables import Dataset, Delivery, Job, Tenant, Webhook
from jobstore.tenants.keys import create_tenant
from jobstore.webhooks import addresses
from jobstore.webhooks import deliveries as webhooks
from tests.jobstore.rows import add_dataset, add_job
from tests.waiting import wait_for
from tests.worker.conftest import ROOT
from worker.webhooks import deliveries as sender


class Receiver(ThreadingHTTPServer):
    """Answers with `status` and keeps what came; a path that begins with /slow holds its answer back."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.came = 204, list[tuple[str, dict[str, str], bytes]]()
        self.held = threading.Event()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.came.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        if self.path.startswith("/slow"):
            self.server.held.wait(60)
        self.send_response(self.server.status)
        self.send_header("location", self.server.url("/elsewhere"))
        self.end_headers()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.held.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def private_addresses(fast_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receivers are on this machine."""
    monkeypatch.setenv("DIFFFIT_WEBHOOK_PRIVATE_ADDRESSES", "true")
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.02)
    get_settings.cache_clear()


def add_endpoint(session: Session, tenant: Tenant, url: str, *kinds: str) -> Webhook:
    row = Webhook(id=new_id("wh"), tenant_id=tenant.id, url=url, secret=webhooks.new_secret())
    row.events = list(kinds or webhooks.EVENT_TYPES)
    session.add(row)
    session.flush()
    return row


def end_job(session: Session, tenant: Tenant, **values: Any) -> Job:
    """A job that a worker ends."""
    job = add_job(session, tenant)
    token = leases.claim(session, Job, job.id, 30)
    assert token is not None
    assert leases.finish(session, Job, job.id, token, "failed" if values else "succeeded", **values)
    events.append(session, job.id, "failed" if values else "succeeded", {})
    return job


def deliver_until(done: Callable[[], object]) -> None:
    """Run the sender until the condition is true."""

    async def run() -> None:
        stop = asyncio.Event()
        sending = asyncio.create_task(sender.deliver_forever(stop, get_settings()))
        await asyncio.to_thread(wait_for, done)
        stop.set()
        await sending

    asyncio.run(run())


def deliveries(sessions: sessionmaker[Session]) -> list[Delivery]:
    with sessions() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


def tried(sessions: sessionmaker[Session], times: int = 1) -> Callable[[], bool]:
    """Every delivery was tried so often, and what came of it is written."""
    return lambda: all(d.attempts >= times and (d.error or d.status == "delivered") for d in deliveries(sessions))


def test_the_end_of_a_job_is_told_and_signed(sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver) -> None:
    with sessions.begin() as session:
        endpoint = add_endpoint(session, tenant, receiver.url())
        job = end_job(session, tenant, error={"code": "diverged", "message": "The loss is no number.", "param": None})
        assert receiver.came == []
    deliver_until(tried(sessions))
    ((_, headers, body),) = receiver.came
    told = Signer(endpoint.secret).verify(body, headers)
    assert told["type"] == "job.failed"
    assert abs(datetime.fromisoformat(told["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert told["data"] == {
        **{"id": job.id, "name": None, "status": "failed"},
        "error": {"code": "diverged", "message": "The loss is no number.", "param": None},
    }
    with pytest.raises(Exception, match="No matching signature"):
        Signer(webhooks.new_secret()).verify(body, headers)
    (delivery,) = deliveries(sessions)
    assert (delivery.status, delivery.attempts, delivery.response_status, delivery.error) == ("delivered", 1, 204, None)
    assert delivery.id == headers["webhook-id"]
    assert delivery.body.encode() == body


def test_each_endpoint_gets_what_it_wants_and_nobody_what_is_anothers(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver
) -> None:
    with sessions.begin() as session:
        stranger = create_tenant(session, "another")
        add_endpoint(session, stranger, receiver.url("/stranger"))
        add_endpoint(session, tenant, receiver.url("/jobs"), "job.succeeded", "job.cancelled")
        add_endpoint(session, tenant, receiver.url("/datasets"), "dataset.ready", "dataset.failed")
        end_job(session, tenant)
        cancelled = add_job(session, tenant)
        cancelled.status = "cancelled"
        events.append(session, cancelled.id, "cancelled", {})
        ready, lost = (add_dataset(session, tenant, "checking") for _ in range(2))
        token = leases.claim(session, Dataset, ready.id, 30)
        assert token is not None
        assert leases.finish(session, Dataset, ready.id, token, "ready")
        leases.claim(session, Dataset, lost.id, 0.0)
    with sessions.begin() as session:
        assert leases.expired(session, Dataset, max_attempts=1) == []
    deliver_until(tried(sessions))
    assert sorted((path, json.loads(body)["type"]) for path, _, body in receiver.came) == [
        ("/datasets", "dataset.failed"),
        ("/datasets", "dataset.ready"),
        ("/jobs", "job.cancelled"),
        ("/jobs", "job.succeeded"),
    ]


def test_a_change_that_is_rolled_back_tells_nothing(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver
) -> None:
    with sessions.begin() as session:
        add_endpoint(session, tenant, receiver.url())
    with sessions() as session:
        end_job(session, tenant)
        assert session.scalar(select(func.count()).select_from(Delivery)) == 1
        session.rollback()
    assert deliveries(sessions) == []


def test_a_refusal_is_tried_again_with_growing_pauses_for_a_day(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver
) -> None:
    receiver.status = 503
    with sessions.begin() as session:
        add_endpoint(session, tenant, receiver.url())
        end_job(session, tenant)
    for attempt, pause in enumerate((5, 20, 80, 320), start=1):
        deliver_until(tried(sessions, attempt))
        (delivery,) = deliveries(sessions)
        assert delivery.next_try_at is not None
        assert pause * 0.8 < (delivery.next_try_at - datetime.now(UTC)).total_seconds() < pause * 1.2
        assert (delivery.status, delivery.response_status) == ("pending", 503)
        with sessions.begin() as session:
            session.execute(update(Delivery).values(next_try_at=func.now(), error=None))
    assert delivery.give_up_at - delivery.created_at > timedelta(hours=23, minutes=59)
    with sessions.begin() as session:
        session.execute(update(Delivery).values(give_up_at=func.now()))
    deliver_until(tried(sessions, 5))
    (delivery,) = deliveries(sessions)
    assert (delivery.status, delivery.attempts, delivery.next_try_at) == ("failed", 5, None)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.came}) == 1
    receiver.status = 200
    with sessions.begin() as session:
        webhooks.resend(session, session.get_one(Delivery, delivery.id))
    deliver_until(tried(sessions))
    assert deliveries(sessions)[0].status == "delivered"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost"])
def test_private_addresses_are_never_reached(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv("DIFFFIT_WEBHOOK_PRIVATE_ADDRESSES")
    get_settings.cache_clear()
    with sessions.begin() as session:
        add_endpoint(session, tenant, receiver.url().replace("127.0.0.1", host))
        end_job(session, tenant)
    deliver_until(tried(sessions))
    (delivery,) = deliveries(sessions)
    assert "not public" in str(delivery.error)
    assert receiver.came == []


def test_the_connection_goes_to_the_address_that_was_checked(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that nobody else can look up: it is asked for once, by the check."""
    asked = []

    async def resolve(host: str, port: int, allow_private: bool) -> str:
        asked.append((host, port, allow_private))
        return "127.0.0.1"

    monkeypatch.setattr(addresses, "resolve", resolve)
    with sessions.begin() as session:
        add_endpoint(session, tenant, receiver.url().replace("127.0.0.1", "hooks.invalid"))
        end_job(session, tenant)
    deliver_until(tried(sessions))
    assert asked == [("hooks.invalid", receiver.server_port, True)]
    assert receiver.came[0][1]["host"] == f"hooks.invalid:{receiver.server_port}"


def test_a_redirect_is_not_followed(sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver) -> None:
    receiver.status = 307
    with sessions.begin() as session:
        add_endpoint(session, tenant, receiver.url())
        end_job(session, tenant)
    deliver_until(tried(sessions))
    assert [path for path, _, _ in receiver.came] == ["/hook"]
    assert "redirect" in str(deliveries(sessions)[0].error)


def test_an_endpoint_that_never_answers_keeps_nobody_else_waiting(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "FIRST_SECONDS", 1.0)
    with sessions.begin() as session:
        slow = add_endpoint(session, tenant, receiver.url("/slow"))
        add_endpoint(session, tenant, receiver.url("/quick"))
        add_endpoint(session, tenant, "http://127.0.0.1:1/")
        end_job(session, tenant)
    deliver_until(tried(sessions))
    by_endpoint = {
        d.webhook_id == slow.id: d for d in deliveries(sessions) if d.status == "delivered" or d.webhook_id == slow.id
    }
    assert "did not answer within" in str(by_endpoint[True].error)
    assert by_endpoint[False].status == "delivered"


def test_one_tenants_hanging_endpoints_keep_no_other_tenant_waiting(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hang until the other's delivery has come: nothing but the bound lets it through."""
    monkeypatch.setattr(sender, "FIRST_SECONDS", 600.0)
    with sessions.begin() as session:
        other = create_tenant(session, "another")
        for number in range(webhooks.MOST_ENDPOINTS):
            add_endpoint(session, tenant, receiver.url(f"/slow/{number}"))
        for _ in range(5):
            end_job(session, tenant)

    def all_places_are_taken() -> bool:
        return len([path for path, _, _ in receiver.came if path.startswith("/slow")]) == webhooks.OF_TENANT

    def others_has_come() -> bool:
        if all_places_are_taken() and not any(d.tenant_id == other.id for d in deliveries(sessions)):
            with sessions.begin() as session:
                add_endpoint(session, other, receiver.url("/quick"))
                end_job(session, other)
        come = any(d.status == "delivered" for d in deliveries(sessions))
        if come:
            assert all_places_are_taken()
            receiver.held.set()
        return come

    deliver_until(others_has_come)
    assert any(path == "/quick" for path, _, _ in receiver.came)


def test_tenants_take_turns_and_no_endpoint_has_more_than_its_share(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    with sessions.begin() as session:
        other = create_tenant(session, "another")
        busy, ill, third = (add_endpoint(session, tenant, f"http://127.0.0.1:1/{number}") for number in range(3))
        ill.failures = 1
        for _ in range(4):
            end_job(session, tenant)
        add_endpoint(session, other, "http://127.0.0.1:1/")
        end_job(session, other)
    with sessions.begin() as session:
        first = webhooks.claim(session, 2)
    assert {delivery.tenant_id for delivery in first} == {tenant.id, other.id}
    with sessions.begin() as session:
        taken = first + webhooks.claim(session, 100, first)
        assert webhooks.claim(session, 100, taken) == []
    share = {endpoint.id: len([d for d in taken if d.webhook_id == endpoint.id]) for endpoint in (busy, ill, third)}
    assert share == {busy.id: webhooks.OF_ENDPOINT, ill.id: 1, third.id: webhooks.OF_ENDPOINT}


@pytest.mark.parametrize("status", [503, 429])
def test_an_endpoint_that_fails_rests_with_all_that_waits_for_it(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    with sessions.begin() as session:
        endpoint = add_endpoint(session, tenant, receiver.url())
        for _ in range(6):
            end_job(session, tenant)
    deliver_until(lambda: any(d.error for d in deliveries(sessions)))
    now = datetime.now(UTC)
    assert 1 <= len(receiver.came) <= webhooks.OF_ENDPOINT
    assert all(d.status == "pending" and d.next_try_at and d.next_try_at > now for d in deliveries(sessions))
    with sessions.begin() as session:
        rests_until = session.get_one(Webhook, endpoint.id).rests_until
        end_job(session, tenant)
    assert rests_until is not None
    assert deliveries(sessions)[-1].next_try_at == rests_until

    receiver.status = 204  # and one that is tried tells that it is well
    with sessions.begin() as session:
        session.execute(update(Delivery).where(Delivery.attempts > 0).values(next_try_at=func.now()))
    deliver_until(lambda: all(d.status == "delivered" for d in deliveries(sessions)))
    with sessions() as session:
        well = session.get_one(Webhook, endpoint.id)
    assert (well.failures, well.rests_until) == (0, None)


def test_what_an_endpoint_refuses_costs_only_itself_its_rest(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver
) -> None:
    receiver.status = 400
    with sessions.begin() as session:
        endpoint = add_endpoint(session, tenant, receiver.url())
        for _ in range(6):
            end_job(session, tenant)
    deliver_until(tried(sessions))
    assert len(receiver.came) == 6
    with sessions() as session:
        assert session.get_one(Webhook, endpoint.id).failures == 0


def test_what_waits_for_an_endpoint_beyond_its_time_is_given_up(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver
) -> None:
    receiver.status = 503
    with sessions.begin() as session:
        add_endpoint(session, tenant, receiver.url()).failures = 10_000
        for _ in range(3):
            end_job(session, tenant)
        session.execute(update(Delivery).values(give_up_at=func.now() + timedelta(hours=1)))
    deliver_until(lambda: all(d.status == "failed" for d in deliveries(sessions)))
    assert sorted(d.attempts for d in deliveries(sessions)) == [0, 0, 1]
    assert all(d.error and d.next_try_at is None for d in deliveries(sessions))


def test_a_sender_that_died_is_replaced_and_cannot_write_any_more(
    sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver
) -> None:
    with sessions.begin() as session:
        add_endpoint(session, tenant, receiver.url())
        end_job(session, tenant)
    with sessions.begin() as session:
        (first,) = webhooks.claim(session, 10)
    with sessions.begin() as session:
        assert webhooks.claim(session, 10) == []
        session.execute(update(Delivery).values(next_try_at=func.now()))
    deliver_until(tried(sessions, 2))
    with sessions.begin() as session:
        webhooks.record(session, first, None, "a word from the grave")
    (delivery,) = deliveries(sessions)
    assert (delivery.status, delivery.attempts, delivery.error) == ("delivered", 2, None)


def test_the_process_delivers_and_ends_when_asked(sessions: sessionmaker[Session], tenant: Tenant, receiver: Receiver) -> None:
    with sessions.begin() as session:
        add_endpoint(session, tenant, receiver.url())
        end_job(session, tenant)
    process = subprocess.Popen([sys.executable, "-m", "worker.webhooks.deliveries"], cwd=ROOT, env=os.environ)
    try:
        wait_for(tried(sessions))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert len(receiver.came) == 1
