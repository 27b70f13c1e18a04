"""Limits of a tenant: each answers 429, names itself and says when to try again; none can be passed by being quick."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Dataset, Generation, Job, Tenant
from tests.api.conftest import Rows, bearer
from tests.api.datasets.test_datasets import stored_files, upload
from tests.api.kit.test_errors import assert_error


def limit(client: TestClient, tenant: Tenant, **limits: int) -> None:
    answer = client.put(f"/tenants/{tenant.id}/limits", json=limits)
    assert answer.status_code == 200, answer.text
    assert answer.json()["limits"].items() >= limits.items()


def assert_limited(answer: Any, code: str, param: str) -> None:
    error = assert_error(answer, 429, code)
    assert (error["type"], error["param"]) == ("rate_limited", param)
    assert int(answer.headers["retry-after"]) > 0


def test_an_upload_that_does_not_fit_is_refused_while_it_streams(
    client: TestClient, tenant: Tenant, rows: Rows, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    rows.dataset(upload_bytes=600)
    rows.dataset("deleted", upload_bytes=5000)
    limit(client, tenant, storage_bytes=1000)
    assert_limited(upload(client, [("file", ("a.zip", b"x" * 401))]), "storage_full", "storage_bytes")
    assert stored_files(tmp_path) == []
    assert upload(client, [("file", ("a.zip", b"x" * 400))]).status_code == 202
    assert_limited(upload(client, [("file", ("a.zip", b"x"))]), "storage_full", "storage_bytes")
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 3
    assert client.get("/usage").json()["usage"]["storage_bytes"] == 1000


def test_uploads_at_the_same_time_do_not_share_the_last_bytes(client: TestClient, tenant: Tenant, tmp_path: Path) -> None:
    limit(client, tenant, storage_bytes=1000)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: upload(client, [("file", ("a.zip", b"x" * 400))]).status_code, range(6)))
    assert sorted(answers) == [202, 202, 429, 429, 429, 429]
    assert len(stored_files(tmp_path)) == 2


def test_a_full_queue_takes_no_job(client: TestClient, tenant: Tenant, rows: Rows, sessions: sessionmaker[Session]) -> None:
    body = {"base_model": "emoji-dit", "dataset": rows.dataset().id}
    limit(client, tenant, queued_jobs=3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/jobs", json=body), range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5
    assert_limited(next(a for a in answers if a.status_code == 429), "queue_full", "queued_jobs")
    assert client.post("/jobs", json=body, params={"dry_run": "true"}, headers={"prefer": "wait=0"}).status_code == 200
    with sessions.begin() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 3
        session.scalars(select(Job)).first().status = "running"  # type: ignore[union-attr]  # there are three
    assert client.post("/jobs", json=body).status_code == 202


def test_a_job_that_comes_back_into_a_full_queue_waits_for_a_place(client: TestClient, tenant: Tenant, rows: Rows) -> None:
    paused, cancelled, waiting = (rows.job(client) for _ in range(3))
    client.post(f"/jobs/{paused}/pause")
    client.post(f"/jobs/{cancelled}/cancel")
    limit(client, tenant, queued_jobs=1)
    for job_id, action, status in ((paused, "resume", "paused"), (cancelled, "retry", "cancelled")):
        assert_limited(client.post(f"/jobs/{job_id}/{action}"), "queue_full", "queued_jobs")
        assert client.get(f"/jobs/{job_id}").json()["status"] == status
    client.post(f"/jobs/{waiting}/cancel")
    for _ in range(2):  # the answer may have been lost
        assert client.post(f"/jobs/{paused}/resume").json()["status"] == "queued"


def test_where_nothing_more_can_be_stored_no_job_is_taken(client: TestClient, tenant: Tenant, rows: Rows) -> None:
    body = {"base_model": "emoji-dit", "dataset": rows.dataset(upload_bytes=1000).id}
    limit(client, tenant, storage_bytes=1000)
    assert_limited(client.post("/jobs", json=body), "storage_full", "storage_bytes")
    limit(client, tenant, storage_bytes=1001)
    assert client.post("/jobs", json=body).status_code == 202
    full = rows.dataset(upload_bytes=1)
    limit(client, tenant, storage_bytes=1001 - 1)
    assert_limited(client.post("/jobs", json=body), "storage_full", "storage_bytes")
    assert client.delete(f"/datasets/{full.id}").status_code == 204
    limit(client, tenant, storage_bytes=1001)
    assert client.post("/jobs", json=body).status_code == 202


def test_where_nothing_more_can_be_stored_no_picture_is_made(
    settings: Settings, api_key: str, tenant: Tenant, tiny_catalog: Path, rows: Rows
) -> None:
    """A condition has to fit; texts take no room."""
    condition = b"\x89PNG\r\n\x1a\n" + bytes(100)
    common: dict[str, Any] = {"prompts": ["a cat"]}
    controlnet = common | {"base_model": "tiny-controlnet", "condition_image": base64.b64encode(condition).decode()}
    rows.dataset(upload_bytes=1000)
    with TestClient(create_app(settings.model_copy(update={"models": tiny_catalog})), headers=bearer(api_key)) as client:
        limit(client, tenant, storage_bytes=1000 + len(condition))
        assert_limited(client.post("/generate", json=controlnet), "storage_full", "storage_bytes")
        limit(client, tenant, storage_bytes=1001 + len(condition))
        location = client.post("/generate", json=controlnet).headers["location"]
        assert client.get("/usage").json()["usage"]["storage_bytes"] == 1000 + len(condition)
        limit(client, tenant, storage_bytes=1000)
        assert_limited(
            client.post("/generate", json=common | {"base_model": "tiny-text-to-image"}), "storage_full", "storage_bytes"
        )
        assert client.post("/generate", json=common | {"base_model": "tiny-instruction"}).status_code == 202
        assert client.delete(location).status_code == 204
        assert client.get("/usage").json()["usage"]["storage_bytes"] == 1000
        limit(client, tenant, storage_bytes=1001)
        assert client.post("/generate", json=common | {"base_model": "tiny-text-to-image"}).status_code == 202


def test_requests_for_images_are_counted_across_processes(
    client: TestClient, settings: Settings, tenant: Tenant, sessions: sessionmaker[Session], stranger: dict[str, str]
) -> None:
    body = {"base_model": "emoji-dit", "labels": [0]}
    limit(client, tenant, generate_per_minute=3)
    with TestClient(create_app(settings), headers=dict(client.headers)) as other:
        assert [c.post("/generate", json=body).status_code for c in (client, other, client)] == [202] * 3
        assert_limited(other.post("/generate", json=body), "rate_limited", "generate_per_minute")
        assert client.post("/generate", json=body, headers=stranger).status_code == 202
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Generation)) == 4


def test_without_valkey_requests_are_not_counted(settings: Settings, tenant: Tenant, api_key: str) -> None:
    """And the worker is not woken either: the sweeper finds the row."""
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1"), "tenant_generate_per_minute": 1})
    with TestClient(create_app(away), headers=bearer(api_key)) as client:
        for _ in range(2):
            assert client.post("/generate", json={"base_model": "emoji-dit", "labels": [0]}).status_code == 202


@pytest.mark.parametrize("wrong", [{"storage_bytes": -1}, {"queued_jobs": "many"}, {"cpus": 1}])
def test_wrong_limits_are_refused(client: TestClient, tenant: Tenant, wrong: dict[str, Any]) -> None:
    assert_error(client.put(f"/tenants/{tenant.id}/limits", json=wrong), 422)


def test_limits_that_are_not_given_are_those_of_the_settings(client: TestClient, tenant: Tenant, settings: Settings) -> None:
    limit(client, tenant, queued_jobs=7)
    limit(client, tenant, running_jobs=2)
    shown = client.get("/usage").json()
    assert shown["limits"] == {
        "storage_bytes": settings.tenant_storage_bytes,
        "queued_jobs": settings.tenant_queued_jobs,
        "running_jobs": 2,
        "generate_per_minute": settings.tenant_generate_per_minute,
    }
    assert shown["usage"] == {"storage_bytes": 0, "queued_jobs": 0, "running_jobs": 0}
