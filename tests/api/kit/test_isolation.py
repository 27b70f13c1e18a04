"""Every route of the OpenAPI document, asked by those who must not: nothing leaks and nothing changes."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from jobstore.jobs import events
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore, job_logs_prefix
from jobstore.kit.settings import Settings
from jobstore.kit.tables import ApiKey, Base, Checkpoint, Evaluation, Generation, Image, Job, Tenant, Webhook
from jobstore.tenants.keys import Scope, create_key
from jobstore.uploads import service as uploads
from jobstore.webhooks.deliveries import new_delivery
from tests.api.conftest import Rows, bearer
from tests.api.kit.test_errors import OPEN, assert_error
from tests.waiting import wait_for

SECRET = "the-victims-secret"  # in every text and file of the victim
TUS = {"tus-resumable": "1.0.0", "upload-length": "10", "upload-offset": "4"}
OPERATORS = "/tenants"  # routes under it are the operator's: another tenant's admin is refused before anything is looked up


@dataclass(frozen=True)
class Call:
    method: str
    template: str  # as in OpenAPI
    path: str  # with the victim's ids
    options: dict[str, Any]  # a body that would be valid, naming the victim's rows

    def send(self, client: TestClient, headers: dict[str, str]) -> Any:
        return client.request(self.method, self.path, **{**self.options, "headers": self.options.get("headers", {}) | headers})


@pytest.fixture
def ids(rows: Rows, client: TestClient, sessions: sessionmaker[Session], store: ObjectStore) -> dict[str, str]:
    return make_rows(rows, client, sessions, store)


def make_rows(rows: Rows, client: TestClient, sessions: sessionmaker[Session], store: ObjectStore) -> dict[str, str]:
    """One row of every kind; its id by the name of its path parameter."""
    dataset = rows.dataset(name=SECRET, preview_key="preview", report={"files": 20, "kept": 20, "note": SECRET})
    job = rows.job(client, "succeeded", dataset.id)
    adapter = rows.adapter(job, SECRET.encode())
    for key in (adapter.object_key, "preview", "image", f"{job_logs_prefix(job)}1"):
        store.put_bytes(key, SECRET.encode())
    with sessions.begin() as session:
        session.get_one(Job, job).name = SECRET
        events.append(session, job, "progress", {"step": 1, "train_loss": 1.0, "note": SECRET})
        session.add(Checkpoint(id=new_id("ck"), job_id=job, step=1, object_key=SECRET, bytes=1))
        generation = Generation(id=new_id("gen"), tenant_id=rows.tenant.id, adapter_id=adapter.id, base_model="emoji-dit")
        generation.status = "succeeded"
        generation.parameters = {"labels": [0], "steps": 2, "guidance_scale": 3.0, "seed": 7, "scheduler": "ddim"}
        image = Image(id=new_id("img"), tenant_id=rows.tenant.id, generation_id=generation.id, position=0, object_key="image")
        image.width, image.height, image.details = 64, 64, {"label": "cat", "seed": 7}
        session.add(generation)
        session.flush()
        session.add(image)
        evaluation = Evaluation(id=new_id("eval"), tenant_id=rows.tenant.id, adapter_id=adapter.id, base_model="emoji-dit")
        evaluation.dataset_id, evaluation.task, evaluation.status = dataset.id, "class-conditional", "failed"
        evaluation.parameters = {"metrics": ["fd-mobilenet"], "samples": 4, "steps": 2, "guidance_scale": 3.0, "seed": 7}
        evaluation.parameters |= {"scheduler": "ddim", "validation_fraction": 0.1}
        evaluation.error = {"code": "evaluation_failed", "message": SECRET, "param": None}
        session.add(evaluation)
        webhook = Webhook(id=new_id("wh"), tenant_id=rows.tenant.id, url=f"https://example.com/{SECRET}", secret=SECRET)
        webhook.events = ["job.succeeded"]
        delivery = new_delivery(webhook, "job.succeeded", {"id": job, "note": SECRET})
        upload = uploads.begin(session, rows.tenant.id, 10, SECRET)
        uploads.advance(session, upload.id, 0, "part", 4)
        session.add(webhook)
        session.flush()
        session.add(delivery)
        key_row, _ = create_key(session, session.get_one(Tenant, rows.tenant.id), SECRET, "read")
    found = {"dataset": dataset.id, "job": job, "adapter": adapter.id, "generation": generation.id, "image": image.id}
    found |= {"evaluation": evaluation.id}
    more = {"key": key_row.id, "tenant": rows.tenant.id, "webhook": webhook.id, "delivery": delivery.id, "upload": upload.id}
    return {f"{noun}_id": row_id for noun, row_id in (found | more).items()}


def bodies(ids: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What makes each request that has a body a valid one for the victim."""
    upload = {"content": b"", "headers": {"content-type": "multipart/form-data; boundary=b"}}
    return {
        "POST /datasets": upload,
        "POST /jobs": {"json": {"base_model": "emoji-dit", "dataset": ids["dataset_id"]}},
        "POST /generate": {"json": {"adapter": ids["adapter_id"], "labels": ["cat"]}},
        "POST /evaluations": {
            "json": {"adapter": ids["adapter_id"], "dataset": ids["dataset_id"], "metrics": ["fd-mobilenet"]}
        },
        "POST /keys": {"json": {"name": "new"}},
        "POST /keys/{key_id}/rotate": {"json": {}},
        "POST /webhooks": {"json": {"url": "https://example.com/hook"}},
        "PATCH /uploads/{upload_id}": {"content": b"123456", "headers": {"content-type": "application/offset+octet-stream"}},
        "POST /tenants": {"json": {"name": "new"}},
        "PUT /tenants/{tenant_id}/limits": {"json": {"queued_jobs": 0}},
    }


def calls(client: TestClient, ids: dict[str, str]) -> Iterator[Call]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    known = bodies(ids)
    for template, operations in document["paths"].items():
        if template in OPEN:
            continue
        path = re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], template)
        for method, operation in operations.items():
            name = f"{method.upper()} {template}"
            options = known[name] if "requestBody" in operation else {}
            if template.startswith("/uploads"):
                options = options | {"headers": TUS | options.get("headers", {})}
            yield Call(method.upper(), template, path, options)


def dump(sessions: sessionmaker[Session]) -> Counter[str]:
    """Every row of every table as JSON, but for when a key was used last."""
    with sessions() as session:
        return Counter(
            f"{table.name} {row}"
            for table in Base.metadata.sorted_tables
            for row in session.scalars(text(f"SELECT to_jsonb(t) - 'last_used_at' FROM {table.name} t"))
        )


def files(tmp_path: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (tmp_path / "files").rglob("*") if path.is_file()}


def key_of(sessions: sessionmaker[Session], tenant: Tenant, scope: Scope, state: str = "valid") -> dict[str, str]:
    with sessions.begin() as session:
        row, key = create_key(session, session.get_one(Tenant, tenant.id), "k", scope)
        past = session.scalars(select(func.now() - timedelta(seconds=1))).one()
        row.expires_at = past if state == "expired" else None
        row.revoked_at = past if state == "revoked" else None
    return bearer(key)


def test_another_tenants_ids_answer_404_and_its_rows_are_in_no_list(
    client: TestClient, sessions: sessionmaker[Session], ids: dict[str, str], stranger: dict[str, str], tmp_path: Path
) -> None:
    before, stored = dump(sessions), files(tmp_path)
    seen = set()
    for call in calls(client, ids):
        answer = call.send(client, stranger)
        seen.add(call.template)
        assert SECRET not in answer.text, call
        if call.template.startswith(OPERATORS):
            assert_error(answer, 403, "operator_only")
        elif call.method == "HEAD":
            assert answer.status_code == 404
        elif "{" in call.template:
            assert_error(answer, 404)
        elif call.method == "GET":
            assert answer.status_code == 200
            assert not [row_id for row_id in ids.values() if row_id in answer.text], call
        elif call.options.get("json", {}).keys() & {"dataset", "adapter"}:
            assert_error(answer, 404)
    assert {"/jobs/{job_id}/logs", "/keys", "/images/{image_id}"} <= seen
    after = dump(sessions)
    assert before - after == Counter()
    new = after - before
    assert not [row for row in new if any(row_id in row for row_id in ids.values())]
    assert files(tmp_path) == stored


@pytest.mark.parametrize(
    ("state", "code"),
    [("missing", "missing_key"), ("expired", "key_expired"), ("revoked", "key_revoked"), ("no", "invalid_key")],
)
def test_without_a_valid_key_no_route_answers(
    client: TestClient, sessions: sessionmaker[Session], ids: dict[str, str], tenant: Tenant, state: str, code: str
) -> None:
    headers = key_of(sessions, tenant, "admin", state)
    if state in {"missing", "no"}:
        headers = {"authorization": "" if state == "missing" else "Bearer difffit_no-such-key"}
    before = dump(sessions)
    for call in calls(client, ids):
        answer = call.send(client, headers)
        if call.method != "HEAD":
            assert_error(answer, 401, code)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert dump(sessions) == before


def test_a_read_only_key_reads_everything_and_changes_nothing(
    client: TestClient, sessions: sessionmaker[Session], ids: dict[str, str], tenant: Tenant, tmp_path: Path
) -> None:
    reader, writer = key_of(sessions, tenant, "read"), key_of(sessions, tenant, "write")
    before, stored = dump(sessions), files(tmp_path)
    for call in calls(client, ids):
        answer = call.send(client, reader)
        if call.method in {"GET", "HEAD", "OPTIONS"} and not call.template.startswith(("/keys", OPERATORS)):
            assert answer.status_code in {200, 204}, call
        else:
            assert_error(answer, 403, "scope_missing")
        if call.template.startswith(("/keys", OPERATORS)):
            assert_error(call.send(client, writer), 403, "scope_missing")
    assert dump(sessions) == before
    assert files(tmp_path) == stored


def test_a_revoked_key_stops_at_once_in_every_process(
    client: TestClient, sessions: sessionmaker[Session], settings: Settings
) -> None:
    """Both have let the key in before, so both remember it."""
    made = client.post("/keys", json={"name": "short-lived", "scope": "read"})
    assert made.status_code == 201
    headers = bearer(made.json()["key"])
    assert made.headers["location"] == f"/keys/{made.json()['id']}"
    with TestClient(create_app(settings), headers=headers) as other:  # resources of its own, as a second process has
        assert other.get("/jobs").status_code == 200
        assert client.get("/jobs", headers=headers).status_code == 200
        assert client.delete(made.headers["location"]).status_code == 204
        assert_error(client.get("/jobs", headers=headers), 401, "key_revoked")
        wait_for(lambda: other.get("/jobs").status_code == 401)
    assert_error(client.delete(made.headers["location"]), 409, "key_not_valid")
    with sessions() as session:
        row = session.get_one(ApiKey, made.json()["id"])
        assert row.last_used_at is not None


def test_the_operator_makes_tenants_and_they_make_their_keys(client: TestClient) -> None:
    made = client.post("/tenants", json={"name": "team-a"})
    assert made.status_code == 201, made.text
    admin = bearer(made.json()["key"]["key"])
    assert_error(client.post("/tenants", json={"name": "team-a"}), 409, "tenant_exists")
    assert [t["name"] for t in client.get("/tenants").json()["data"]] == ["team-a", "default"]
    assert_error(client.get("/tenants", headers=admin), 403, "operator_only")
    key = client.post("/keys", json={"name": "ci", "expires_in_days": 30}, headers=admin).json()
    assert key["scope"] == "write"
    assert key["expires_at"] is not None
    rotated = client.post(f"/keys/{key['id']}/rotate", headers=admin)
    assert rotated.status_code == 201, rotated.text
    assert rotated.json()["name"] == "ci"
    assert_error(client.get("/jobs", headers=bearer(key["key"])), 401, "key_expired")
    assert client.get("/jobs", headers=bearer(rotated.json()["key"])).status_code == 200
    listed = client.get("/keys", headers=admin).json()["data"]
    assert [k["name"] for k in listed] == ["ci", "ci", "first"]
    assert "key" not in listed[0]
