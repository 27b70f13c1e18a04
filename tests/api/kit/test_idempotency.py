"""`Idempotency-Key`: a request that comes again is carried out once, also under concurrency and across a crash."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from httpx_sse import EventSource, connect_sse
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

import api.kit.idempotency
from jobstore.generations.text_stream import TextWriter
from jobstore.jobs import events
from jobstore.kit import idempotency
from jobstore.kit.errors import InProgressError
from jobstore.kit.idempotency import Claim
from jobstore.kit.settings import Settings
from jobstore.kit.tables import ApiKey, Dataset, Generation, IdempotencyKey, Job, JobEvent, Tenant
from tests.api.conftest import Rows, running_server
from tests.api.datasets.test_datasets import form
from tests.api.kit.test_errors import assert_error
from tests.waiting import wait_for

KEY = {"idempotency-key": "5f1d-a"}


@pytest.fixture
def spec(rows: Rows) -> dict[str, Any]:
    return {"base_model": "emoji-dit", "dataset": rows.dataset().id}


def count(sessions: sessionmaker[Session], model: type[Any]) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def test_a_repeated_request_gets_the_stored_answer(
    client: TestClient, spec: dict[str, Any], sessions: sessionmaker[Session]
) -> None:
    first, again = (client.post("/jobs", json=spec, headers=KEY) for _ in range(2))
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["location"] == first.headers["location"] == f"/jobs/{first.json()['id']}"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert (count(sessions, Job), count(sessions, JobEvent)) == (1, 1)
    assert client.post("/jobs", json=spec, headers={"idempotency-key": "another"}).json()["id"] != first.json()["id"]


def test_another_request_under_the_key_is_refused(client: TestClient, spec: dict[str, Any]) -> None:
    assert client.post("/jobs", json=spec, headers=KEY).status_code == 202
    error = assert_error(client.post("/jobs", json=spec | {"name": "x"}, headers=KEY), 409, "idempotency_key_reused")
    assert error["param"] == "Idempotency-Key"
    generate = {"base_model": "emoji-dit", "labels": [0]}
    assert_error(client.post("/generate", json=generate, headers=KEY), 409, "idempotency_key_reused")
    assert_error(client.post("/jobs?dry_run=true", json=spec, headers=KEY), 409, "idempotency_key_reused")


def test_keys_of_tenants_are_apart(client: TestClient, stranger: dict[str, str]) -> None:
    body = {"base_model": "emoji-dit", "labels": [0]}
    mine = client.post("/generate", json=body, headers=KEY)
    theirs = client.post("/generate", json=body, headers=KEY | stranger)
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["id"] != theirs.json()["id"]


def test_what_creates_nothing_leaves_the_key_free(
    client: TestClient, spec: dict[str, Any], sessions: sessionmaker[Session]
) -> None:
    assert_error(client.post("/jobs", json=spec | {"base_model": "none"}, headers=KEY), 422)
    assert_error(client.post("/jobs", content=b"{", headers=KEY | {"content-type": "application/json"}), 400)
    assert client.post("/jobs?dry_run=true", json=spec, headers=KEY | {"prefer": "wait=0"}).status_code == 200
    assert count(sessions, IdempotencyKey) == 0
    assert client.post("/jobs", json=spec, headers=KEY).status_code == 202


@pytest.mark.parametrize("key", [b"", b"a b", "é".encode(), b"x" * 256])
def test_a_key_that_cannot_be_one_is_refused(client: TestClient, spec: dict[str, Any], key: bytes) -> None:
    answer = client.post("/jobs", json=spec, headers={b"idempotency-key": key})
    assert assert_error(answer, 422, "invalid_value")["param"] == "Idempotency-Key"


def test_many_at_once_create_one(client: TestClient, spec: dict[str, Any], sessions: sessionmaker[Session]) -> None:
    start = threading.Barrier(12)

    def post(_: int) -> httpx.Response:
        start.wait()
        return client.post("/jobs", json=spec, headers=KEY)  # type: ignore[return-value]  # its client speaks a copy of httpx

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(12)))
    assert count(sessions, Job) == 1
    assert Counter(answer.status_code for answer in answers).keys() <= {202, 409}
    made = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.json()["id"] for answer in made}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert_error(answer, 409, "idempotency_key_in_use")
            assert answer.headers["retry-after"] == "1"
    assert client.post("/jobs", json=spec, headers=KEY).json() == made[0].json()


def test_an_api_killed_between_commit_and_answer_creates_nothing_twice(
    settings: Settings, tenant: Tenant, api_key: str, spec: dict[str, Any], sessions: sessionmaker[Session]
) -> None:
    """The database holds the answer's storing back until the process is dead."""
    with sessions.begin() as session:
        session.execute(
            text(
                "CREATE FUNCTION hold() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$ LANGUAGE plpgsql"
            )
        )
        session.execute(
            text("CREATE TRIGGER hold BEFORE UPDATE OF status ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION hold()")
        )
    with running_server(api_key) as server, ThreadPoolExecutor(1) as pool, server.client() as client:
        lost = pool.submit(lambda: client.post("/jobs", json=spec, headers=KEY))
        wait_for(lambda: count(sessions, Job) == 1)
        server.process.kill()
        with pytest.raises(httpx.TransportError):
            lost.result()
    with sessions.begin() as session:
        session.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'UPDATE idempotency%'"))
        session.execute(text("DROP TRIGGER hold ON idempotency_keys"))
    with running_server(api_key) as server, server.client() as client:
        with sessions.begin() as session:  # the other has started at once
            session.execute(update(IdempotencyKey).values(locked_until=func.now() + timedelta(minutes=5)))
        assert_error(client.post("/jobs", json=spec, headers=KEY), 409, "idempotency_key_in_use")
        with sessions.begin() as session:  # half a minute later
            session.execute(update(IdempotencyKey).values(locked_until=func.now() - timedelta(seconds=1)))
        again = client.post("/jobs", json=spec, headers=KEY)
        assert again.status_code == 202, again.text
        assert again.headers["location"] == f"/jobs/{again.json()['id']}"
        assert again.json() == client.get(again.headers["location"]).json()
    assert (count(sessions, Job), count(sessions, JobEvent)) == (1, 1)


def test_an_answer_that_could_not_be_stored_is_not_lost(
    client: TestClient, spec: dict[str, Any], sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(api.kit.idempotency, "_finish", fail)
        assert_error(client.post("/jobs", json=spec, headers=KEY), 500)
    with sessions.begin() as session:
        session.execute(update(IdempotencyKey).values(locked_until=func.now() - timedelta(seconds=1)))
    assert client.post("/jobs", json=spec, headers=KEY).status_code == 202
    assert count(sessions, Job) == 1


def test_a_request_that_lost_its_key_cannot_commit(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    with sessions.begin() as session:
        slow = idempotency.begin(session, tenant.id, "k", "same")
        session.execute(update(IdempotencyKey).values(locked_until=func.now() - timedelta(seconds=1)))
    with sessions.begin() as session:
        quick = idempotency.begin(session, tenant.id, "k", "same")
    assert isinstance(slow, Claim)
    assert isinstance(quick, Claim)
    with sessions() as session, pytest.raises(InProgressError):
        idempotency.created(session, slow, "/jobs/slow")
    with sessions.begin() as session:
        idempotency.finish(session, slow, 202, "", b"")  # and does not touch the other's claim
        idempotency.created(session, quick, "/jobs/quick")
        idempotency.finish(session, quick, 202, "application/json", b"{}")
    with sessions.begin() as session:
        done = idempotency.begin(session, tenant.id, "k", "same")
        assert isinstance(done, IdempotencyKey)
        assert (done.location, done.body) == ("/jobs/quick", b"{}")


def test_after_a_day_the_key_is_free(client: TestClient, spec: dict[str, Any], sessions: sessionmaker[Session]) -> None:
    first = client.post("/jobs", json=spec, headers=KEY)
    with sessions.begin() as session:
        session.execute(update(IdempotencyKey).values(created_at=func.now() - timedelta(hours=24, seconds=1)))
    second = client.post("/jobs", json=spec | {"name": "tomorrow"}, headers=KEY)
    assert second.status_code == 202
    assert second.json()["id"] != first.json()["id"]
    with sessions.begin() as session:
        idempotency.forget_old(session)
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 1


def test_an_upload_is_known_again_whatever_its_boundary(client: TestClient, sessions: sessionmaker[Session]) -> None:
    def upload(data: bytes, boundary: str) -> Any:
        body = form([("file", ("a.zip", data))], boundary)
        return client.post(
            "/datasets", content=body, headers=KEY | {"content-type": f"multipart/form-data; boundary={boundary}"}
        )

    large = b"0123456789abcdef" * 20_000
    first, again = upload(large, "one-boundary"), upload(large, "two-boundary")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert_error(upload(b"x" + large[1:], "a-boundary-1"), 409, "idempotency_key_reused")
    assert_error(upload(large + b"x", "a-boundary-2"), 409, "idempotency_key_reused")
    assert count(sessions, Dataset) == 1


def test_images_and_secrets(client: TestClient, sessions: sessionmaker[Session]) -> None:
    body = {"base_model": "emoji-dit", "labels": [0]}
    first, again = (client.post("/generate", json=body, headers=KEY) for _ in range(2))
    assert first.json() == again.json()
    assert count(sessions, Generation) == 1
    headers = {"idempotency-key": "b"}
    key, repeated = (client.post("/keys", json={"name": "k"}, headers=headers) for _ in range(2))
    assert (key.status_code, repeated.status_code) == (201, 201)
    assert repeated.headers["location"] == key.headers["location"]
    assert "key" not in repeated.json()
    assert {"key": key.json()["key"]} | repeated.json() == key.json()
    assert count(sessions, ApiKey) == 2
    with sessions() as session:
        assert key.json()["key"] not in str(session.execute(text("SELECT * FROM idempotency_keys")).all())


def test_a_stream_is_sent_as_it_comes(
    settings: Settings, rows: Rows, tiny_catalog: Path, api_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on only when its first event was seen. The same request again is a stream of the same words."""
    monkeypatch.setenv("DIFFFIT_MODELS", str(tiny_catalog))
    request = {"base_model": "tiny-instruction", "prompts": ["1 + 1?"], "seed": 5}
    seen: list[str] = []

    def follow(source: EventSource) -> None:
        generation_id = source.response.headers["location"].rpartition("/")[2]
        if not seen:
            TextWriter(settings.redis_url.get_secret_value(), generation_id).write(0, "two")
        for event in source.iter_sse():
            seen.append(event.event)
            if event.event == "text":
                with rows.sessions.begin() as session:
                    generation = session.get_one(Generation, generation_id)
                    generation.status, generation.finished_at = "succeeded", session.scalar(select(func.now()))
                    events.notify(session, "generation", generation_id)

    with running_server(api_key) as server, server.client() as http:
        for _ in range(2):
            headers = KEY | {"accept": "text/event-stream"}
            with connect_sse(http, "POST", "/generate", json=request, headers=headers) as source:
                follow(source)
    assert seen == ["begin", "text", "succeeded"] * 2
    assert count(rows.sessions, Generation) == 1
