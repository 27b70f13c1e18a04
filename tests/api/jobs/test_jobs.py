"""Jobs: what is created, planned, listed and cancelled, and every spec that is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import Engine, event, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Generation, Job, JobEvent
from tests.api.conftest import Rows, bearer
from tests.api.kit.test_errors import assert_error

WRONG_SPECS: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"base_model": "dit-xxl"}, 422, "unknown_base_model", "base_model"),
    ({"base_model": None}, 422, "invalid_value", "base_model"),
    ({"method": {"type": "magic"}}, 422, "unknown_method", "method.type"),
    ({"method": {}}, 422, "missing_field", "method.type"),
    ({"method": {"type": "full", "scale_blocks": 3}}, 422, "unknown_field", "method.scale_blocks"),
    ({"method": {"type": "difffit", "scale_blocks": -1}}, 422, "invalid_value", "method.scale_blocks"),
    ({"method": {"type": "difffit", "scale_layers": []}}, 422, "invalid_value", "method.scale_layers"),
    ({"method": {"type": "difffit", "rank": 8}}, 422, "unknown_field", "method.rank"),
    ({"method": {"type": "lora", "rank": 0}}, 422, "invalid_value", "method.rank"),
    ({"method": "difffit"}, 422, "invalid_value", "method"),
    ({"hyperparameters": {"lerning_rate": 1}}, 422, "unknown_field", "hyperparameters.lerning_rate"),
    ({"hyperparameters": {"learning_rate": 0}}, 422, "invalid_value", "hyperparameters.learning_rate"),
    ({"hyperparameters": {"learning_rate": -1}}, 422, "invalid_value", "hyperparameters.learning_rate"),
    ({"hyperparameters": {"learning_rate": "fast"}}, 422, "invalid_value", "hyperparameters.learning_rate"),
    ({"hyperparameters": {"learning_rate": [1]}}, 422, "invalid_value", "hyperparameters.learning_rate"),
    ({"hyperparameters": {"steps": 1.5}}, 422, "invalid_value", "hyperparameters.steps"),
    ({"hyperparameters": {"lr_schedule": "zigzag"}}, 422, "invalid_value", "hyperparameters.lr_schedule"),
    ({"hyperparameters": {"steps": 10, "warmup_steps": 10}}, 422, "invalid_spec", "hyperparameters.warmup_steps"),
    ({"hyperparameters": []}, 422, "invalid_value", "hyperparameters"),
    ({"seed": -1}, 422, "invalid_value", "seed"),
    ({"seed": 10**400}, 422, "invalid_value", "seed"),
    ({"name": "\0"}, 422, "invalid_value", None),
    ({"name": "\ud800"}, 422, "invalid_value", "name"),
    ({"\ud800": 1}, 422, "invalid_value", None),
    ({"dataset": "ds_unknown"}, 404, "dataset_not_found", "dataset"),
    ({"dataset": "\0"}, 404, "dataset_not_found", "dataset"),
]


LLAMA_CATALOG = """
[[model]]
id = "some-llama"
family = "llama"
description = ""
license = ""
path = "llama"
defaults = {pretraining_learning_rate = 1, steps = 1, batch_size = 1, guidance_scale = 1, sample_steps = 1, scheduler = "ddim"}
"""


def test_a_job_is_queued_with_every_auto_resolved(client: TestClient, rows: Rows, sessions: sessionmaker[Session]) -> None:
    dataset = rows.dataset()
    spec = {"base_model": "emoji-dit", "dataset": dataset.id, "seed": 7, "name": "pets", "hyperparameters": {"steps": 50}}
    answer = client.post("/jobs", json=spec)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert job["status"] == "queued"
    assert job["dataset"] == dataset.id
    assert job["method"]["type"] == "difffit"
    assert job["method"]["scale_blocks"] == "auto"
    assert job["hyperparameters"]["steps"] == 50
    assert "auto" not in job["hyperparameters"].values()
    assert job["seed"] == 7
    assert job["progress"] == {
        "step": 0,
        "total_steps": 50,
        "samples_per_second": None,
        "seconds_remaining": None,
        "queue_position": 1,
    }
    assert job["losses"] == {"train": None, "validation_base": None, "validation": None}
    assert job["adapter"] is None
    assert client.get(f"/jobs/{job['id']}").json() == job
    with sessions() as session:
        assert session.scalars(select(JobEvent.type).where(JobEvent.job_id == job["id"])).all() == ["queued"]


def test_a_dry_run_answers_the_plan_and_starts_nothing(client: TestClient, rows: Rows, sessions: sessionmaker[Session]) -> None:
    body = {"base_model": "emoji-dit", "dataset": rows.dataset().id}
    answer = client.post("/jobs?dry_run=true", json=body, headers={"prefer": "wait=0"})
    assert answer.status_code == 200
    plan = answer.json()["plan"]
    assert plan["dataset"]["classes"] == {"cat": 12, "dog": 8}
    assert "base_model_path" not in plan
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_a_wrong_spec_names_its_field(client: TestClient, rows: Rows) -> None:
    good = {"base_model": "emoji-dit", "dataset": rows.dataset().id}
    for change, status, code, param in WRONG_SPECS:
        answer = client.post("/jobs", content=json.dumps(good | change), headers={"content-type": "application/json"})
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, param)


def test_a_learning_rate_that_is_no_number_is_refused(client: TestClient, rows: Rows) -> None:
    for literal in ("NaN", "Infinity", "1e999"):
        body = f'{{"base_model": "emoji-dit", "dataset": "ds_1", "hyperparameters": {{"learning_rate": {literal}}}}}'
        answer = client.post("/jobs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422
        assert answer.json()["error"]["param"] == "hyperparameters.learning_rate"


def test_a_method_that_does_not_fit_the_base_is_refused(settings: Settings, api_key: str, rows: Rows, tmp_path: Path) -> None:
    catalog = tmp_path / "models.toml"
    catalog.write_text(LLAMA_CATALOG)
    (tmp_path / "llama").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "llama" / name).touch()
    with TestClient(create_app(settings.model_copy(update={"models": catalog})), headers=bearer(api_key)) as client:
        for method in ("bitfit", "vpt-deep"):
            spec = {"base_model": "some-llama", "dataset": rows.dataset().id, "method": {"type": method}}
            answer = client.post("/jobs", json=spec)
            assert answer.status_code == 422
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("method_does_not_fit", "method.type")
            assert "llama" in error["message"]


def test_messages_say_what_is_allowed(client: TestClient) -> None:
    def message(**hyperparameters: object) -> str:
        spec = {"base_model": "emoji-dit", "dataset": "ds_1", "hyperparameters": hyperparameters}
        return str(client.post("/jobs", json=spec).json()["error"]["message"])

    assert message(learning_rate=-1) == "`hyperparameters.learning_rate` must be above 0 or 'auto', not -1."
    assert message(learning_rate="fast") == "`hyperparameters.learning_rate` must be a number or 'auto', not \"fast\"."
    assert message(lerning_rate=1).startswith(
        "`hyperparameters.lerning_rate` is not a known field. Did you mean `learning_rate`? Known here: aspect, base_precision,"
    )
    unknown_method = client.post("/jobs", json={"base_model": "b", "dataset": "d", "method": {"type": "magic"}}).json()["error"]
    assert unknown_method["message"] == (
        "`method.type` must be one of 'difffit', 'bitfit', 'full', 'lora', 'adapter-parallel', 'adapter-sequential', "
        "'vpt-deep', not \"magic\"."
    )
    assert "emoji-dit" in client.post("/jobs", json={"base_model": "b", "dataset": "d"}).json()["error"]["message"]


def test_a_dataset_that_is_not_ready_is_refused(client: TestClient, rows: Rows) -> None:
    for state, status in (("checking", 409), ("failed", 422), ("deleted", 422)):
        answer = client.post("/jobs", json={"base_model": "emoji-dit", "dataset": rows.dataset(state).id})
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == ("dataset_not_ready" if state == "checking" else f"dataset_{state}")
        assert answer.json()["error"]["param"] == "dataset"


def test_one_class_only_is_refused(client: TestClient, rows: Rows) -> None:
    answer = client.post("/jobs", json={"base_model": "emoji-dit", "dataset": rows.dataset(classes={"cat": 5}).id})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "one_class_only"


def test_jobs_come_in_pages_with_their_places_in_the_queue(client: TestClient, rows: Rows) -> None:
    ids = [rows.job(client) for _ in range(5)]
    rows.job(client, "running")
    seen: dict[str, int | None] = {}
    after: dict[str, str] = {}
    more = True
    while more:
        page = client.get("/jobs", params={"limit": "2"} | after).json()
        assert len(page["data"]) == 2
        seen |= {job["id"]: job["progress"]["queue_position"] for job in page["data"]}
        after, more = {"after": page["data"][-1]["id"]}, page["has_more"]
    assert list(seen) == sorted(seen, reverse=True)
    assert [seen[job_id] for job_id in sorted(ids)] == [1, 2, 3, 4, 5]
    assert list(seen.values()).count(None) == 1


def test_a_wrong_page_is_refused(client: TestClient) -> None:
    for query, code in (
        ("limit=0", "invalid_value"),
        ("limit=101", "invalid_value"),
        ("limit=many", "invalid_value"),
        ("after=%00", "invalid_value"),
        ("page=2", "unknown_field"),
    ):
        answer = client.get(f"/jobs?{query}")
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, query.partition("=")[0])


def test_a_page_goes_on_only_after_what_is_in_the_list(client: TestClient, rows: Rows, stranger: dict[str, str]) -> None:
    job_id, dataset = rows.job(client), rows.dataset()
    for path, after in (("jobs", new_id("job")), ("jobs", "job_0"), ("jobs", dataset.id), ("datasets", job_id)):
        error = assert_error(client.get(f"/{path}?after={after}"), 404, "unknown_cursor")
        assert error["param"] == "after"
    assert_error(client.get(f"/jobs?after={job_id}", headers=stranger), 404, "unknown_cursor")
    assert_error(client.get("/webhooks?after=wh_0"), 404, "unknown_cursor")
    client.post(f"/jobs/{job_id}/cancel")
    assert client.delete(f"/jobs/{job_id}").status_code == 204
    assert client.get(f"/jobs?after={job_id}").json()["data"] == []  # it was there while the pages were turned


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(client: TestClient, rows: Rows) -> None:
    waiting, running = rows.job(client), rows.job(client, "running")
    assert client.post(f"/jobs/{waiting}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/jobs/{running}/cancel").json()["status"] == "cancelling"
    again = client.post(f"/jobs/{waiting}/cancel")
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "job_already_ended"


def test_another_tenant_sees_nothing_of_a_job(client: TestClient, rows: Rows, stranger: dict[str, str]) -> None:
    job_id = rows.job(client)
    dataset_id = client.get(f"/jobs/{job_id}").json()["dataset"]
    assert client.get("/jobs", headers=stranger).json() == {"data": [], "has_more": False}
    assert client.post(f"/jobs/{job_id}/cancel", headers=stranger).status_code == 404
    for outputs in ("", "/events", "/metrics", "/samples", "/checkpoints", "/adapter"):
        assert client.get(f"/jobs/{job_id}{outputs}", headers=stranger).status_code == 404
    answer = client.post("/jobs", json={"base_model": "emoji-dit", "dataset": dataset_id}, headers=stranger)
    assert answer.json()["error"]["code"] == "dataset_not_found"


def test_a_job_is_paused_resumed_cancelled_and_retried(
    client: TestClient, rows: Rows, sessions: sessionmaker[Session], stranger: dict[str, str]
) -> None:
    """Each request can be repeated, because its answer may have been lost."""
    job_id = rows.job(client)
    wishes = [("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("retry", "queued"), ("pause", "paused")]
    for action, status in wishes:
        assert client.post(f"/jobs/{job_id}/{action}", headers=stranger).status_code == 404
        assert client.post(f"/jobs/{job_id}/{action}").json()["status"] == status
        if action in {"pause", "resume"}:
            assert client.post(f"/jobs/{job_id}/{action}").json()["status"] == status
    with sessions() as session:
        types = session.scalars(select(JobEvent.type).where(JobEvent.job_id == job_id).order_by(JobEvent.sequence)).all()
    assert types == ["queued", "paused", "resumed", "cancelled", "retried", "paused"]
    refused = client.post(f"/jobs/{job_id}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_not_ended")


def test_a_job_is_deleted_once_it_has_ended_and_its_adapter_stays(
    client: TestClient, rows: Rows, store: ObjectStore, stranger: dict[str, str]
) -> None:
    waiting, job_id = rows.job(client), rows.job(client, "succeeded")
    refused = client.delete(f"/jobs/{waiting}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_in_use")
    adapter = rows.adapter(job_id)
    for key in (adapter.object_key, f"jobs/{job_id}/t/1.tar", f"jobs/{waiting}/t/1.tar"):
        store.put_bytes(key, b"weights")
    assert client.delete(f"/jobs/{job_id}", headers=stranger).status_code == 404
    assert client.delete(f"/jobs/{job_id}").status_code == 204
    assert client.get(f"/jobs/{job_id}").status_code == 404
    assert [job["id"] for job in client.get("/jobs").json()["data"]] == [waiting]
    assert [store.exists(f"jobs/{job}/t/1.tar") for job in (job_id, waiting)] == [False, True]
    assert client.get(f"/adapters/{adapter.id}/download").content == b"weights"


def test_an_adapter_is_deleted_unless_something_waits_for_it(
    client: TestClient, rows: Rows, store: ObjectStore, sessions: sessionmaker[Session]
) -> None:
    job_id = rows.job(client, "succeeded")
    adapter = rows.adapter(job_id)
    store.put_bytes(adapter.object_key, b"weights")
    request = {"adapter": adapter.id, "labels": ["cat"]}
    picture = client.post("/generate", json=request).json()["id"]
    refused = client.delete(f"/adapters/{adapter.id}").json()["error"]
    assert refused["code"] == "adapter_in_use"
    assert picture in refused["message"]
    with sessions.begin() as session:
        session.execute(update(Generation).values(status="succeeded", finished_at=func.now()))
    assert client.delete(f"/adapters/{adapter.id}").status_code == 204
    assert not store.exists(adapter.object_key)
    assert client.get(f"/adapters/{adapter.id}/download").status_code == 404
    assert client.post("/generate", json=request).json()["error"]["code"] == "adapter_not_found"
    assert client.get(f"/jobs/{job_id}").json()["adapter"] is None
    assert client.get(f"/generate/{picture}").json()["parameters"]["labels"] == ["cat"]


def test_priority_moves_a_job_among_its_tenants_own(client: TestClient, rows: Rows) -> None:
    spec = {"base_model": "emoji-dit", "dataset": rows.dataset().id}
    first = client.post("/jobs", json=spec).json()
    second = client.post("/jobs", json=spec | {"priority": 1, "max_duration": 60}).json()
    assert (second["priority"], second["max_duration"], second["progress"]["queue_position"]) == (1, 60, 1)
    assert client.get(f"/jobs/{first['id']}").json()["progress"]["queue_position"] == 2
    for field, value in (("priority", 101), ("max_duration", 0)):
        answer = client.post("/jobs", json=spec | {field: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


def test_a_job_begins_with_an_adapter_that_fits(client: TestClient, rows: Rows, sessions: sessionmaker[Session]) -> None:
    dataset = rows.dataset()
    adapter = rows.adapter(rows.job(client, "succeeded", dataset.id))
    spec = {"base_model": "emoji-dit", "dataset": dataset.id, "init_adapter": adapter.id}
    job_id = client.post("/jobs", json=spec).json()["id"]
    with sessions() as session:
        assert session.get_one(Job, job_id).init_adapter_id == adapter.id
    assert client.delete(f"/adapters/{adapter.id}").json()["error"]["code"] == "adapter_in_use"
    others: list[tuple[dict[str, Any], int, str]] = [
        ({"method": {"type": "bitfit"}}, 422, "wrong_init_adapter"),
        ({"dataset": rows.dataset(classes={"cat": 3, "cow": 3}).id}, 422, "wrong_init_adapter"),
        ({"init_adapter": "ad_unknown"}, 404, "adapter_not_found"),
    ]
    for change, status, code in others:
        answer = client.post("/jobs", json=spec | change)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, "init_adapter")


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is asked of the database meanwhile, but for keys: those are remembered for a while."""
    seen = list[str]()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "api_keys" not in statement:
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_what_is_asked_for_most_costs_few_ways_to_the_database(client: TestClient, rows: Rows) -> None:
    spec = {"base_model": "emoji-dit", "dataset": rows.dataset().id}
    client.post("/jobs", json=spec)  # what the tenant stores is remembered for a while
    with statements() as posting:
        posted = client.post("/jobs", json=spec).json()["id"]
    assert len(posting) == 4, posting  # its dataset, the quota, the row with its first event, its place
    running = rows.job(client, "running")
    with statements() as looking:
        assert client.get(f"/jobs/{running}").json()["status"] == "running"
    assert len(looking) == 1, looking
    with statements() as waiting:
        assert client.get(f"/jobs/{posted}").json()["progress"]["queue_position"] == 2
    assert len(waiting) == 2, waiting
