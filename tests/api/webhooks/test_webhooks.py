"""Endpoints of webhooks, made with a secret that is shown once; deliveries that are looked at and sent again."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs import events
from jobstore.kit.tables import Delivery, Job
from jobstore.webhooks.deliveries import EVENT_TYPES, MOST_ENDPOINTS
from tests.api.conftest import Rows
from tests.api.kit.test_errors import assert_error

URL = "https://example.com/hook"


def test_the_secret_is_shown_once(client: TestClient) -> None:
    made = client.post("/webhooks", json={"url": URL, "events": ["job.failed", "job.failed"]})
    assert made.status_code == 201, made.text
    assert made.json()["secret"].startswith("whsec_")
    shown = client.get(made.headers["location"]).json()
    assert shown == {key: value for key, value in made.json().items() if key != "secret"}
    assert shown["events"] == ["job.failed"]
    assert client.get("/webhooks").json() == {"data": [shown], "has_more": False}
    assert client.delete(made.headers["location"]).status_code == 204
    assert_error(client.get(made.headers["location"]), 404, "webhook_not_found")
    assert client.post("/webhooks", json={"url": URL}).json()["events"] == sorted(EVENT_TYPES)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"url": "http://169.254.169.254/latest/meta-data"}, "address_not_allowed", "url"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "address_not_allowed", "url"),
        ({"url": "http://localhost:8000/"}, "address_not_allowed", "url"),
        ({"url": "gopher://example.com"}, "invalid_url", "url"),
        ({"url": URL, "events": []}, "invalid_value", "events"),
        ({"url": URL, "events": ["job.begun"]}, "invalid_value", "events.0"),
        ({}, "missing_field", "url"),
    ],
)
def test_wrong_endpoints_are_refused(client: TestClient, body: dict[str, Any], code: str, param: str) -> None:
    assert assert_error(client.post("/webhooks", json=body), 422, code)["param"] == param


def test_a_tenant_has_so_many_and_no_more(client: TestClient) -> None:
    assert {client.post("/webhooks", json={"url": URL}).status_code for _ in range(MOST_ENDPOINTS)} == {201}
    assert_error(client.post("/webhooks", json={"url": URL}), 409, "too_many_webhooks")


def test_deliveries_are_listed_and_sent_again(client: TestClient, rows: Rows, sessions: sessionmaker[Session]) -> None:
    webhook, other = (client.post("/webhooks", json={"url": URL}).headers["location"] for _ in range(2))
    job = rows.job(client)
    assert client.post(f"/jobs/{job}/cancel").status_code == 200
    (delivery,) = client.get(f"{webhook}/deliveries").json()["data"]
    assert (delivery["type"], delivery["status"], delivery["attempts"]) == ("job.cancelled", "pending", 0)
    assert job in delivery["body"]
    with sessions.begin() as session:
        row = session.get_one(Delivery, delivery["id"])
        row.status, row.attempts, row.next_try_at, row.error = "failed", 9, None, "no answer"
    assert_error(client.post(f"{other}/deliveries/{delivery['id']}/resend"), 404, "delivery_not_found")
    again = client.post(f"{webhook}/deliveries/{delivery['id']}/resend")
    assert again.status_code == 202
    assert (again.json()["status"], again.json()["attempts"], again.json()["error"]) == ("pending", 0, None)
    assert again.json()["next_try_at"] is not None


def test_only_the_end_of_a_job_is_told(client: TestClient, rows: Rows, sessions: sessionmaker[Session]) -> None:
    webhook = client.post("/webhooks", json={"url": URL}).headers["location"]
    job = rows.job(client)
    with sessions.begin() as session:
        for kind in ("started", "progress", "warning", "requeued", "paused", "checkpoint"):
            events.append(session, job, kind, {})
        session.get_one(Job, job).status = "succeeded"
        events.append(session, job, "succeeded", {})
    assert [d["type"] for d in client.get(f"{webhook}/deliveries").json()["data"]] == ["job.succeeded"]
