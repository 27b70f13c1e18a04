"""The API as a process: small, quick to start, without torch; uploads in constant memory; streams that go on living."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from httpx_sse import connect_sse
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs import events
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Dataset, Job
from tests.api.conftest import Rows, Server
from tests.api.datasets.test_datasets import stored_files

MEBIBYTE = 1024**2
HEAD = b'--b\r\ncontent-disposition: form-data; name="file"; filename="big.tar"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"
MULTIPART = {"content-type": "multipart/form-data; boundary=b"}


def test_the_process_is_small_and_never_imports_torch(server: Server) -> None:
    with server.client() as client:
        for path in ("/models", "/jobs", "/openapi.json"):
            assert client.get(path).status_code == 200
    assert server.memory() <= 150 * MEBIBYTE
    with server.client() as client:
        for _ in range(3):
            answer = client.post("/jobs", content=bytes(10_000_000), headers={"content-type": "application/json"})
            assert answer.json()["error"]["code"] == "body_too_large"
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "/torch/" not in maps
    program = "import sys, api.app; print(sorted({'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_uploads_are_streamed_and_a_broken_one_leaves_nothing(
    server: Server, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    uploads = tmp_path / "files" / "datasets"
    _go_away_while_uploading(server, uploads)
    _until(lambda: not any(path.is_file() for path in uploads.rglob("*")))
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 0
    chunk, chunks = os.urandom(MEBIBYTE), 256

    def body() -> Iterator[bytes]:
        yield HEAD
        for _ in range(chunks):
            yield chunk
        yield TAIL

    before = server.memory("VmHWM")
    with server.client() as client:
        answer = client.post("/datasets", content=body(), headers=MULTIPART)
    assert answer.status_code == 202, answer.text
    assert answer.json()["bytes"] == chunks * MEBIBYTE
    assert [path.stat().st_size for path in stored_files(tmp_path) if path.name == "upload"] == [chunks * MEBIBYTE]
    assert server.memory("VmHWM") - before <= 64 * MEBIBYTE


def test_a_stream_goes_on_until_the_job_has_ended(server: Server, sessions: sessionmaker[Session], rows: Rows) -> None:
    with server.client() as client:
        job_id = client.post("/jobs", json={"base_model": "emoji-dit", "dataset": rows.dataset().id}).json()["id"]
        seen: list[tuple[str, str]] = []

        def listen() -> None:
            with connect_sse(client, "GET", f"/jobs/{job_id}/events") as source:
                seen.extend((message.id, message.event) for message in source.iter_sse() if message.data)

        listener = threading.Thread(target=listen)
        listener.start()
        with sessions.begin() as session:
            events.append(session, job_id, "started", {})
        _until(lambda: len(seen) == 2)
        with sessions.begin() as session:  # the connection that listens breaks; the stream must not notice
            session.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"))
        with sessions.begin() as session:
            events.append(session, job_id, "succeeded", {})
            session.get_one(Job, job_id).status = "succeeded"
        listener.join(30)
        assert not listener.is_alive()
    assert seen == [("1", "queued"), ("2", "started"), ("3", "succeeded")]


def test_readiness_names_a_broker_that_is_away(settings: Settings) -> None:
    environment = os.environ | {"REDIS_URL": "redis://127.0.0.1:1/0"}
    program = (
        "from fastapi.testclient import TestClient; from api.app import create_app\n"
        "with TestClient(create_app()) as client: print(client.get('/readyz').text)"
    )
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "Not reachable: broker." in answer.stdout


def _go_away_while_uploading(server: Server, uploads: Path) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        key = server.headers["authorization"]
        head = f"POST /datasets HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-length: 99999999\r\n"
        connection.sendall(head.encode() + b"content-type: multipart/form-data; boundary=b\r\n\r\n" + HEAD)
        connection.sendall(bytes(20 * MEBIBYTE))
        _until(lambda: any(path.is_file() for path in uploads.rglob("*")))


def _until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
