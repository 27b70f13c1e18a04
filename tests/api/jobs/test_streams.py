"""Event streams: nothing is missed across a restart of the API, and hundreds that are idle cost the database nothing."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from httpx_sse import ServerSentEvent, connect_sse
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from api.jobs import streams
from jobstore.generations.text_stream import TextWriter
from jobstore.jobs import events
from jobstore.kit.ids import new_id
from jobstore.kit.settings import Settings
from jobstore.kit.tables import ApiKey, Generation, Job, Tenant
from jobstore.tenants.keys import create_key, revoke_key, rotate_key
from tests.api.conftest import Rows, Server, bearer, running_server
from tests.waiting import wait_for

STREAMS = 200
WATCHED_SECONDS = 3.0


def add(sessions: sessionmaker[Session], job_id: str, *kinds: str) -> None:
    with sessions.begin() as session:
        for kind in kinds:
            events.append(session, job_id, kind, {})


def test_a_stream_goes_on_where_it_broke_off_when_the_api_comes_back(
    client: TestClient, rows: Rows, sessions: sessionmaker[Session], api_key: str
) -> None:
    job_id = rows.job(client)  # event 1
    seen: list[ServerSentEvent] = []

    def follow_until_it_breaks(server: Server) -> None:
        with server.client() as http, connect_sse(http, "GET", f"/jobs/{job_id}/events") as source:
            for message in source.iter_sse():
                seen.append(message)
                if len(seen) == 1:
                    add(sessions, job_id, "started", "progress")
                if len(seen) == 3:
                    server.process.kill()

    with running_server(api_key) as server, pytest.raises(httpx.TransportError):
        follow_until_it_breaks(server)
    add(sessions, job_id, "checkpoint", "succeeded")
    with sessions.begin() as session:
        session.get_one(Job, job_id).status = "succeeded"
    with (
        running_server(api_key) as server,
        server.client() as http,
        connect_sse(http, "GET", f"/jobs/{job_id}/events", headers={"last-event-id": seen[-1].id}) as source,
    ):
        seen += source.iter_sse()  # ends by itself, because the job has ended
    assert [(message.id, message.event) for message in seen] == [
        *(("1", "queued"), ("2", "started"), ("3", "progress")),
        *(("4", "checkpoint"), ("5", "succeeded")),
    ]


ENDINGS: dict[str, Callable[[Session, ApiKey], object]] = {
    "revoked": revoke_key,
    "rotated": lambda session, key: rotate_key(session, key, timedelta(0)),
    "expires": lambda session, key: rotate_key(session, key, timedelta(seconds=1)),
}
SILENCE_SECONDS = streams.PING_SECONDS - 5  # a stream that is pinged has not ended


@dataclass
class EndingKey:
    """A key that is ended while it is used."""

    sessions: sessionmaker[Session]
    tenant: Tenant
    ending: str

    def __post_init__(self) -> None:
        with self.sessions.begin() as session:
            row, self.text = create_key(session, self.tenant, "short", "read")
        self.id = row.id

    def end(self) -> None:
        with self.sessions.begin() as session:
            ENDINGS[self.ending](session, session.get_one(ApiKey, self.id))

    @contextmanager
    def client(self, server: Server) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=server.url, headers=bearer(self.text), timeout=SILENCE_SECONDS) as http:
            yield http
            assert http.get("/jobs").status_code == 401


def test_a_stream_ends_with_its_key(server: Server, client: TestClient, rows: Rows) -> None:
    job_id = rows.job(client)
    for ending in ENDINGS:
        key, seen = EndingKey(rows.sessions, rows.tenant, ending), []
        with key.client(server) as http, connect_sse(http, "GET", f"/jobs/{job_id}/events") as source:
            for message in source.iter_sse():
                if message.data:  # httpx-sse takes a ping after an event for an event
                    seen.append(message.event)
                    key.end()
        assert seen == ["queued"], ending


def test_a_stream_of_words_ends_with_its_key_though_more_come(server: Server, rows: Rows, settings: Settings) -> None:
    generation = Generation(id=new_id("gen"), tenant_id=rows.tenant.id, base_model="emoji-dit", status="running")
    generation.parameters = {"prompts": ["1 + 1?"], "max_tokens": 5, "temperature": 0.0, "top_p": 1.0, "seed": 1}
    with rows.sessions.begin() as session:
        session.add(generation)
    words = TextWriter(settings.redis_url.get_secret_value(), generation.id)
    for ending in ENDINGS:
        key, deadline, ended = EndingKey(rows.sessions, rows.tenant, ending), time.monotonic() + SILENCE_SECONDS, False
        with key.client(server) as http, connect_sse(http, "GET", f"/generate/{generation.id}") as source:
            for message in source.iter_sse():
                words.write(0, "a word ")
                if message.data and not ended:
                    key.end()
                    ended = True
                assert time.monotonic() < deadline, ending


@contextmanager
def server_in_this_process(settings: Settings) -> Iterator[str]:
    """A real server whose statements can be counted here; its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


def test_idle_streams_ask_the_database_nothing(
    client: TestClient,
    rows: Rows,
    settings: Settings,
    sessions: sessionmaker[Session],
    api_key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The streams are pinged 15 times while it is watched: they are open, and silent for no other reason."""
    monkeypatch.setattr(streams, "PING_SECONDS", WATCHED_SECONDS / 15)
    job_ids = [rows.job(client) for _ in range(4)]
    statements: list[str] = []
    pings, ends = [0] * STREAMS, [0] * STREAMS

    async def follow(http: httpx.AsyncClient, number: int) -> None:
        path, headers = f"/jobs/{job_ids[number % 4]}/events", {"accept": "text/event-stream"}
        async with http.stream("GET", path, headers=headers) as response:
            async for line in response.aiter_lines():
                pings[number] += line == ": ping"
                ends[number] += line == "event: succeeded"

    async def watch(url: str) -> list[str]:
        limits = httpx.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {api_key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, limits=limits) as http:
            following = [asyncio.create_task(follow(http, number)) for number in range(STREAMS)]
            await asyncio.to_thread(wait_for, lambda: min(pings) > 0)
            statements.clear()
            await asyncio.sleep(WATCHED_SECONDS)  # what is measured is a rate
            counted = list(statements)
            for job_id in job_ids:
                with sessions.begin() as session:
                    events.append(session, job_id, "succeeded", {})
                    session.get_one(Job, job_id).status = "succeeded"
            await asyncio.gather(*following)  # each of them hears of it, and closes
        return counted

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        with server_in_this_process(settings) as url:
            counted = asyncio.run(watch(url))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(counted) <= WATCHED_SECONDS, counted
    assert min(pings) >= 5
    assert ends == [1] * STREAMS
