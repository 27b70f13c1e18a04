"""Requests that are answered together: each gets its own answer, and none suffers from what another brings."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.tables import Job
from tests.api.conftest import Rows, Server


def test_each_of_many_jobs_gets_its_own_answer(
    server: Server, client: TestClient, rows: Rows, stranger: dict[str, str], sessions: sessionmaker[Session]
) -> None:
    body = {"base_model": "emoji-dit", "dataset": rows.dataset().id}
    asked: list[tuple[dict[str, Any], dict[str, str], int]] = [
        *((body | {"name": f"job {number}"}, {}, 202) for number in range(20)),
        (body | {"name": "a\0b"}, {}, 422),  # the database refuses it, and everything beside it
        (body | {"dataset": "ds_none"}, {}, 422),
        (body | {"base_model": "none"}, {}, 422),
        (body, stranger, 404),
    ]
    start = threading.Barrier(len(asked))

    def post(one: tuple[dict[str, Any], dict[str, str], int]) -> httpx.Response:
        with server.client() as http:
            http.get("/healthz")
            start.wait()
            return http.post("/jobs", json=one[0], headers=one[1])

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(post, asked))
    created = [answer.json() for answer in answers[:20]]
    assert [answer.status_code for answer in answers[:21]] == [status for _, _, status in asked[:21]]
    assert all(answer.status_code in (404, 422) for answer in answers[21:])
    assert [job["name"] for job in created] == [f"job {number}" for number in range(20)]
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 20
    listed = {job["id"]: job for job in client.get("/jobs", params={"limit": 100}).json()["data"]}
    places = sorted(job["progress"]["queue_position"] for job in listed.values())
    assert places == list(range(1, 21))

    def look(job: dict[str, Any]) -> dict[str, Any]:
        with server.client() as http:
            found: dict[str, Any] = http.get(f"/jobs/{job['id']}").json()
            return found

    with ThreadPoolExecutor(10) as pool:  # one by one or together, looked at or listed: the same job
        assert list(pool.map(look, created)) == [listed[job["id"]] for job in created]
