"""What is slow holds nobody else: clients that send or take nothing, a stopped database, a store that takes its time."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from api.app import create_app
from jobstore.embedded import postgres
from jobstore.embedded.directory import DataDirectory
from jobstore.kit.database import CONNECTIONS, make_engine, session_factory
from jobstore.kit.ids import new_id
from jobstore.kit.migrate import upgrade
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Image
from jobstore.tenants.keys import install_key
from tests.api.conftest import Rows, Server, bearer, running_server
from tests.api.kit.test_errors import assert_error
from tests.waiting import wait_for

REQUEST_SECONDS = 1.0
DATABASE_SECONDS = 2.0
WORST_SECONDS = 2 * DATABASE_SECONDS + 5 + 2  # as docs/operating.md has it: a turn and an answer, a connection, a ping
PATIENCE = 30.0  # of a test, on a machine that is busy
JOB = {"base_model": "emoji-dit"}
KEYED = "POST /jobs HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-type: application/json\r\n"
HALF_SENT = {
    "nothing": "",
    "an empty line": "\r\n",
    "half a line": "GET /hea",
    "half a head": "GET /healthz HTTP/1.1\r\nhost: x\r\nx-more",
    "a head without a body": KEYED + "content-length: 10\r\n\r\n",
    "half a body": KEYED + 'content-length: 10\r\n\r\n{"a"',
    "half a chunk": KEYED + "transfer-encoding: chunked\r\n\r\n5\r\n{",
    "half a body without a key": "POST /jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{",
    "half an upload": "POST /datasets HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-length: 999\r\n"
    "content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n",
}


@pytest.fixture
def impatient(settings: Settings, rows: Rows, api_key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("DIFFFIT_REQUEST_SECONDS", str(REQUEST_SECONDS))
    with running_server(api_key) as server:
        yield server


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    while more := connection.recv(65536):
        received += more
    return received


def test_a_request_that_is_sent_by_half_does_not_last(impatient: Server) -> None:
    connections = {name: connect(impatient) for name in HALF_SENT for _ in range(10)}
    for name, connection in connections.items():
        connection.sendall(HALF_SENT[name].replace("{key}", impatient.headers["authorization"]).encode())
    answers = {name: until_closed(connection) for name, connection in connections.items()}
    for name in ("a head without a body", "half a body", "half a chunk", "half an upload"):
        assert b" 408 " in answers[name], (name, answers[name])
        assert b'"request_timeout"' in answers[name]
    assert b" 401 " in answers["half a body without a key"]
    with impatient.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_body_that_trickles_does_not_last(impatient: Server) -> None:
    """Each byte comes in time, the body as a whole does not."""
    with connect(impatient) as connection:
        head = KEYED.replace("{key}", impatient.headers["authorization"]) + "content-length: 100000\r\n\r\n"
        connection.sendall(head.encode())
        answered = threading.Event()

        def trickle() -> None:
            while not answered.wait(REQUEST_SECONDS / 20):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

        trickling = threading.Thread(target=trickle)
        trickling.start()
        assert b" 408 " in connection.recv(65536)
        answered.set()
        trickling.join()


def connections_of(server: Server) -> int:
    """Those of clients that its process holds."""
    port = f":{int(server.url.rpartition(':')[2]):04X}"
    held = {link.readlink().name.strip("socket:[]") for link in Path(f"/proc/{server.process.pid}/fd").iterdir()}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(port) and line[3] == "01" and line[9] in held for line in lines)


def test_whoever_takes_nothing_of_an_answer_is_left(impatient: Server, rows: Rows, store: ObjectStore) -> None:
    data = bytes(64 * 1024**2)
    with impatient.client() as client:
        adapter = rows.adapter(client.post("/jobs", json=JOB | {"dataset": rows.dataset().id}).json()["id"], data)
        store.put_bytes(adapter.object_key, data)
        path = f"/adapters/{adapter.id}/download"
        wait_for(lambda: connections_of(impatient) <= 1)  # that of the client
        with connect(impatient) as connection:
            key = impatient.headers["authorization"]
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n\r\n".encode())
            wait_for(lambda: connections_of(impatient) == 2)
            wait_for(lambda: connections_of(impatient) <= 1)
        assert client.get(path).content == data


def test_a_head_without_end_is_refused(server: Server) -> None:
    endless = ("x: y\r\n" * 2_000, "x-a: " + "y" * 20_000 + "\r\n\r\n", "x-a: " + "y" * 2_000_000)
    for headers in endless:
        with connect(server) as connection:
            try:
                connection.sendall(f"GET /healthz HTTP/1.1\r\nhost: x\r\n{headers}".encode())
                answer = until_closed(connection)
            except ConnectionError:  # it was closed while there was more to send
                continue
            assert b" 400 " in answer, headers[:10]
            assert b'"malformed_request"' in answer
    with connect(server) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert b'"malformed_request"' in until_closed(connection)


@contextmanager
def own_database(folder: Path) -> Iterator[tuple[str, int]]:
    """A server of this test alone: its URL, and the process that is the whole of it."""
    with DataDirectory(folder) as directory:
        server = postgres.start(directory)
        try:
            postgres.wait(server, directory)
            yield postgres.url(directory), server.process.pid
        finally:
            server.stop(30)


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in family(int(child)))]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    pids = family(pid)
    for each in pids:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in pids:
            os.kill(each, signal.SIGCONT)


def test_a_stopped_database_costs_a_503_in_time_and_nothing_else(settings: Settings, tmp_path: Path, api_key: str) -> None:
    """Many requests at once, so that turns, connections and threads are all wanted."""
    with own_database(tmp_path / "data") as (url, pid):
        upgrade(url)
        engine = make_engine(url)
        with session_factory(engine).begin() as session:
            rows = Rows(session_factory(engine), install_key(session, api_key))
        own = settings.model_copy(update={"database_url": SecretStr(url), "database_seconds": DATABASE_SECONDS})
        with TestClient(create_app(own), headers=bearer(api_key)) as client, ThreadPoolExecutor(80) as many:
            job_id = rows.job(client)
            assert client.get("/models").status_code == 200

            def ask(path: str) -> tuple[str, Any, float]:
                began = time.monotonic()
                return path, client.get(path), time.monotonic() - began

            with stopped(pid):
                paths = ["/datasets", f"/jobs/{job_id}", f"/jobs/{job_id}/events", "/usage", "/generate/gen_1"] * 12
                asked = [many.submit(ask, path) for path in paths]
                while not all(future.done() for future in asked):
                    for path in ("/healthz", "/docs", "/openapi.json"):
                        _, answer, seconds = ask(path)
                        assert answer.status_code == 200
                        assert seconds < DATABASE_SECONDS, path
                    _, ready, seconds = ask("/readyz")
                    assert_error(ready, 503, "not_ready")
                for path, answer, seconds in (future.result() for future in asked):
                    assert_error(answer, 503, "database_unavailable")
                    assert int(answer.headers["retry-after"]) > 0
                    assert seconds < WORST_SECONDS, path
            wait_for(lambda: client.get("/jobs").status_code == 200)
            wait_for(lambda: client.get(f"/jobs/{job_id}").status_code == 200)
        engine.dispose()


class SlowStore(ObjectStore):
    """A store that answers when it is let."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.let, self.waiting = threading.Event(), 0

    async def open(self, key: str) -> tuple[int, AsyncIterator[bytes]]:
        self.waiting += 1
        while not self.let.is_set():
            await asyncio.sleep(0.01)
        return await super().open(key)


def test_a_slow_store_holds_no_transaction(settings: Settings, rows: Rows, api_key: str) -> None:
    """More requests wait for files than there are connections to the database; others go on, and none of those is kept."""
    app = create_app(settings)
    with TestClient(app, headers=bearer(api_key)) as client, ThreadPoolExecutor(2 * CONNECTIONS) as many:
        store = SlowStore(settings.storage_url)
        app.state.resources = replace(app.state.resources, store=store)
        job_id, dataset = rows.job(client), rows.dataset(preview_key="datasets/x/preview")
        adapter = rows.adapter(job_id)
        image = Image(id=new_id("img"), tenant_id=rows.tenant.id, job_id=job_id, position=1, object_key="jobs/x/samples/1")
        image.details = {"labels": ["cat"]}
        with rows.sessions.begin() as session:
            session.add(image)
        for key in (f"jobs/{job_id}/logs/1", "datasets/x/preview", adapter.object_key, image.object_key):
            store.put_bytes(key, b"data")
        paths = [f"/images/{image.id}", f"/datasets/{dataset.id}/preview", f"/adapters/{adapter.id}/download"]
        paths += [f"/jobs/{job_id}/logs", f"/jobs/{job_id}/adapter"]
        asked = [many.submit(client.get, path) for path in paths * (2 * CONNECTIONS // len(paths))]
        wait_for(lambda: store.waiting == len(asked))
        assert client.get("/jobs").status_code == 200
        with rows.sessions() as session:
            idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
            assert session.scalar(text(idle)) == 0
        store.let.set()
        assert {future.result().content for future in asked} == {b"data"}


def test_what_can_change_is_not_kept_for_ever(client: TestClient, rows: Rows, store: ObjectStore) -> None:
    """A sample is made anew where its job goes on from an earlier checkpoint."""
    image = Image(
        id=new_id("img"), tenant_id=rows.tenant.id, job_id=rows.job(client), position=1, object_key="jobs/x/samples/1"
    )
    image.details = {"labels": ["cat"]}
    with rows.sessions.begin() as session:
        session.add(image)
    store.put_bytes(image.object_key, b"first")
    first = client.get(f"/images/{image.id}")
    assert (first.content, first.headers["cache-control"]) == (b"first", "private, no-cache")
