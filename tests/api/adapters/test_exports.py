"""Adapters in other formats: asked for once, waited for, and then downloaded."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Adapter, Export
from tests.api.conftest import Rows
from tests.api.kit.test_errors import assert_error


@pytest.fixture
def adapter(client: TestClient, rows: Rows) -> Adapter:
    return rows.adapter(rows.job(client, "succeeded"))


def end(sessions: sessionmaker[Session], status: str, **values: Any) -> None:
    """What a worker writes in the end."""
    with sessions.begin() as session:
        export = session.scalars(select(Export)).one()
        export.status, export.finished_at = status, datetime.now(UTC)
        for name, value in values.items():
            setattr(export, name, value)


def test_a_format_is_made_once_and_then_downloaded(
    client: TestClient, adapter: Adapter, sessions: sessionmaker[Session], store: ObjectStore, stranger: dict[str, str]
) -> None:
    url = f"/adapters/{adapter.id}/download?format=peft"
    assert_error(client.get(url, headers=stranger), 404, "adapter_not_found")
    answers = [client.get(path) for path in (url, url, f"/jobs/{adapter.job_id}/adapter?format=peft")]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert answers[0].headers["retry-after"] == "5"
    assert answers[0].json() == answers[2].json()
    assert (answers[0].json()["status"], answers[0].json()["format"]) == ("queued", "peft")
    store.put_bytes("adapters/x/e.peft.zip", b"archive")
    end(sessions, "succeeded", object_key="adapters/x/e.peft.zip", bytes=7)
    made = client.get(url)
    assert (made.status_code, made.content, made.headers["content-type"]) == (200, b"archive", "application/zip")
    assert f'filename="{adapter.id}.peft.zip"' in made.headers["content-disposition"]
    assert client.get(f"/adapters/{adapter.id}/download?format=merged").status_code == 202


def test_what_an_adapter_cannot_be_made_into_is_told(
    client: TestClient, adapter: Adapter, sessions: sessionmaker[Session]
) -> None:
    url = f"/adapters/{adapter.id}/download?format=merged"
    client.get(url)
    end(sessions, "failed", error={"code": "not_mergeable", "message": "It adds modules.", "param": "blocks.0"})
    error = assert_error(client.get(url), 409, "not_mergeable")
    assert (error["message"], error["param"]) == ("It adds modules.", "blocks.0")


def test_an_accident_is_told_for_a_minute_and_then_tried_again(
    client: TestClient, adapter: Adapter, sessions: sessionmaker[Session]
) -> None:
    url = f"/adapters/{adapter.id}/download?format=merged"
    client.get(url)
    end(sessions, "failed", error={"code": "export_failed", "message": "It ended.", "param": None}, attempt=3)
    assert_error(client.get(url), 503, "export_failed")
    with sessions.begin() as session:
        session.scalars(select(Export)).one().finished_at = datetime.now(UTC) - timedelta(seconds=61)
    assert client.get(url).json()["status"] == "queued"
    with sessions() as session:
        export = session.scalars(select(Export)).one()
    assert (export.attempt, export.error, export.finished_at) == (0, None, None)


def test_a_deleted_adapter_takes_its_exports_along(
    client: TestClient, adapter: Adapter, sessions: sessionmaker[Session], store: ObjectStore
) -> None:
    client.get(f"/adapters/{adapter.id}/download?format=peft")
    store.put_bytes("adapters/x/e.peft.zip", b"archive")
    end(sessions, "succeeded", object_key="adapters/x/e.peft.zip", bytes=7)
    assert client.delete(f"/adapters/{adapter.id}").status_code == 204
    assert not store.exists("adapters/x/e.peft.zip")
    with sessions() as session:
        assert session.scalars(select(Export)).all() == []
