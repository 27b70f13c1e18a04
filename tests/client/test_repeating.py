"""A request whose answer was lost is sent again under the same Idempotency-Key."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from client.api import Client
from client.errors import ApiError

IN_USE = {"error": {"type": "conflict", "code": "idempotency_key_in_use", "message": "Wait.", "param": None}}
REFUSED = {"error": {"type": "conflict", "code": "dataset_not_ready", "message": "Wait.", "param": "dataset"}}


@contextmanager
def answering(answers: list[tuple[int, object] | None]) -> Iterator[tuple[Client, list[str | None]]]:
    """A server with these answers in turn, None for a connection that is cut; the keys that came."""
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            keys.append(self.headers["idempotency-key"])
            answer = answers[len(keys) - 1]
            if answer is not None:
                self.send_response(answer[0])
                self.end_headers()
                self.wfile.write(json.dumps(answer[1]).encode())

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}", "k") as client:
            yield client, keys
        server.shutdown()


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.connection.REPEAT_PAUSES", (0.0, 0.0, 0.0))


def test_a_lost_answer_is_asked_for_again() -> None:
    with answering([None, (409, IN_USE), (202, {"id": "job_1"})]) as (client, keys):
        assert client.create_job({})["id"] == "job_1"
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]


def test_every_new_request_has_its_own_key() -> None:
    with answering([(202, {"id": "job_1"}), (202, {"id": "job_2"})]) as (client, keys):
        client.create_job({})
        client.create_job({})
    assert len(set(keys)) == 2


def test_a_refusal_is_not_repeated() -> None:
    with answering([(409, REFUSED)]) as (client, keys), pytest.raises(ApiError, match="Wait"):
        client.create_job({})
    assert len(keys) == 1
