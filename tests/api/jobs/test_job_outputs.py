"""Events as a list and as a stream, metrics, samples, checkpoints and the adapter of a job."""

import json
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs import events
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore, job_logs_prefix
from jobstore.kit.tables import Checkpoint, Image
from tests.api.conftest import Rows
from tests.api.kit.test_errors import assert_error


def append(sessions: sessionmaker[Session], job_id: str, *happened: tuple[str, dict[str, Any]]) -> None:
    for kind, data in happened:
        with sessions.begin() as session:
            events.append(session, job_id, kind, data)


def parse_sse(text: str) -> list[tuple[int, str, Any]]:
    """(id, event, data) of each message."""
    messages = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [(int(m["id"]), m["event"], json.loads(m["data"])) for m in messages if "id" in m]


def test_events_come_in_pages_oldest_first(client: TestClient, rows: Rows, sessions: sessionmaker[Session]) -> None:
    job_id = rows.job(client)
    append(sessions, job_id, *[("progress", {"step": step, "train_loss": 1.0}) for step in range(1, 5)])
    first = client.get(f"/jobs/{job_id}/events?limit=3").json()
    assert [(e["sequence"], e["type"]) for e in first["data"]] == [(1, "queued"), (2, "progress"), (3, "progress")]
    assert first["has_more"] is True
    for after in (first["data"][-1]["id"], "3"):
        rest = client.get(f"/jobs/{job_id}/events?after={after}").json()
        assert [e["sequence"] for e in rest["data"]] == [4, 5]
        assert rest["has_more"] is False
    assert_error(client.get(f"/jobs/{job_id}/events?after=evt_0"), 404, "event_not_found")
    assert_error(client.get(f"/jobs/{job_id}/events?after=6"), 404, "event_not_found")
    assert_error(client.get(f"/jobs/{job_id}/events?after=no"), 422, "invalid_value")


def test_the_stream_of_an_ended_job_replays_and_closes(client: TestClient, rows: Rows, sessions: sessionmaker[Session]) -> None:
    job_id = rows.job(client, "succeeded")
    append(sessions, job_id, ("progress", {"step": 1, "train_loss": 0.5}), ("succeeded", {"seconds": 1.5, "note": "a\nb"}))
    sse = {"accept": "text/event-stream"}
    whole = client.get(f"/jobs/{job_id}/events", headers=sse)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert parse_sse(whole.text) == [
        (1, "queued", {}),
        (2, "progress", {"step": 1, "train_loss": 0.5}),
        (3, "succeeded", {"seconds": 1.5, "note": "a\nb"}),
    ]
    rest = client.get(f"/jobs/{job_id}/events", headers=sse | {"last-event-id": "2"})
    assert [sequence for sequence, _, _ in parse_sse(rest.text)] == [3]
    done = client.get(f"/jobs/{job_id}/events", headers=sse | {"last-event-id": "3"})
    assert (done.status_code, done.content) == (204, b"")
    assert_error(client.get(f"/jobs/{job_id}/events", headers=sse | {"last-event-id": "4"}), 404, "event_not_found")
    error = assert_error(client.get(f"/jobs/{job_id}/events", headers=sse | {"last-event-id": "x"}), 422, "invalid_value")
    assert error["param"] == "last-event-id"


def test_metrics_hold_every_measured_loss(client: TestClient, rows: Rows, sessions: sessionmaker[Session]) -> None:
    job_id = rows.job(client)
    append(sessions, job_id, ("validation", {"step": 0, "loss": 2.0, "base": True}))
    append(sessions, job_id, ("progress", {"step": 5, "train_loss": 1.5}), ("checkpoint", {"step": 5}))
    append(sessions, job_id, ("validation", {"step": 5, "loss": 1.0, "base": False}))
    figure = {"metric": "kid", "value": 0.1, "std": 0.01, "samples": 4, "reference_images": 2, "resolution": 64}
    figure |= {"reference": {"dataset": "5" * 64, "split": "test"}, "extractor": "inception 0123456789ab"}
    append(sessions, job_id, ("evaluation", {"step": 5, "samples": 4, "figures": [figure]}))
    assert client.get(f"/jobs/{job_id}/metrics").json() == {
        "data": [
            {"step": 0, "validation_loss": 2.0, "base": True},
            {"step": 5, "train_loss": 1.5},
            {"step": 5, "validation_loss": 1.0, "base": False},
            {"step": 5, "figures": [figure]},
        ]
    }


def test_metrics_leave_out_what_a_later_attempt_does_again(
    client: TestClient, rows: Rows, sessions: sessionmaker[Session]
) -> None:
    job_id = rows.job(client)
    for resumed_from, steps in ((None, (2, 4, 6)), (4, (5, 7))):
        append(sessions, job_id, ("started", {"resumed_from": resumed_from}))
        append(sessions, job_id, *(("progress", {"step": step, "train_loss": 1.0}) for step in steps))
    assert [metric["step"] for metric in client.get(f"/jobs/{job_id}/metrics").json()["data"]] == [2, 4, 5, 7]
    append(sessions, job_id, ("started", {"resumed_from": None}))
    assert client.get(f"/jobs/{job_id}/metrics").json()["data"] == []


def test_samples_and_checkpoints_are_listed(
    client: TestClient, rows: Rows, sessions: sessionmaker[Session], store: ObjectStore, stranger: dict[str, str]
) -> None:
    job_id = rows.job(client)
    store.put_bytes("grid", b"a grid")
    picture = Image(id=new_id("img"), tenant_id=rows.tenant.id, job_id=job_id, position=100, object_key="grid")
    picture.width, picture.height, picture.details = 64, 64, {"labels": ["cat"]}
    with sessions.begin() as session:
        session.add(picture)
        session.add(Checkpoint(id=new_id("ck"), job_id=job_id, step=100, object_key="checkpoint", bytes=7))
    sample = client.get(f"/jobs/{job_id}/samples").json()["data"][0]
    assert (sample["id"], sample["step"], sample["labels"]) == (picture.id, 100, ["cat"])
    shown = client.get(sample["url"])
    assert (shown.content, shown.headers["content-type"]) == (b"a grid", "image/png")
    assert_error(client.get(sample["url"], headers=stranger), 404, "image_not_found")
    checkpoint = client.get(f"/jobs/{job_id}/checkpoints").json()["data"][0]
    assert (checkpoint["step"], checkpoint["bytes"]) == (100, 7)


def test_samples_of_a_language_model_are_texts(
    client: TestClient, rows: Rows, sessions: sessionmaker[Session], store: ObjectStore
) -> None:
    job_id = rows.job(client)
    store.put_bytes("step-000100.txt", "Wie geht's?\nGut, für wahr.\n".encode())
    texts = Image(id=new_id("img"), tenant_id=rows.tenant.id, job_id=job_id, position=100, object_key="step-000100.txt")
    texts.details = {"labels": ["Wie geht's?"]}
    with sessions.begin() as session:
        session.add(texts)
    sample = client.get(f"/jobs/{job_id}/samples").json()["data"][0]
    shown = client.get(sample["url"])
    assert shown.headers["content-type"] == sample["media_type"] == "text/plain; charset=utf-8"
    assert shown.text == "Wie geht's?\nGut, für wahr.\n"


def test_the_log_is_shown_once_there_is_one(
    client: TestClient, rows: Rows, store: ObjectStore, stranger: dict[str, str]
) -> None:
    job_id = rows.job(client, "failed")
    assert_error(client.get(f"/jobs/{job_id}/logs"), 404, "no_logs")
    for number, text in ((2, "--- attempt 2\n"), (1, "--- attempt 1\nküche\n")):
        store.put_bytes(f"{job_logs_prefix(job_id)}{number}.txt", text.encode())
    shown = client.get(f"/jobs/{job_id}/logs")
    assert shown.text == "--- attempt 1\nküche\n--- attempt 2\n"
    assert shown.headers["content-type"] == "text/plain; charset=utf-8"
    assert_error(client.get(f"/jobs/{job_id}/logs", headers=stranger), 404, "job_not_found")


def test_the_adapter_is_downloaded_once_the_job_has_succeeded(
    client: TestClient, rows: Rows, store: ObjectStore, stranger: dict[str, str]
) -> None:
    assert_error(client.get(f"/jobs/{rows.job(client, 'running')}/adapter"), 409, "job_not_finished")
    assert_error(client.get(f"/jobs/{rows.job(client, 'failed')}/adapter"), 404, "no_adapter")
    job_id, data = rows.job(client, "succeeded"), b"weights" * 1_000_000
    adapter = rows.adapter(job_id, data)
    assert_error(client.get(f"/adapters/{adapter.id}/download"), 503, "object_missing")
    store.put_bytes(adapter.object_key, data)
    for path in (
        f"/jobs/{job_id}/adapter",
        f"/adapters/{adapter.id}/download",
        f"/adapters/{adapter.id}/download?format=difffit",
    ):
        answer = client.get(path)
        assert answer.content == data
        assert answer.headers["content-length"] == str(len(data))
        assert f'filename="{adapter.id}.safetensors"' in answer.headers["content-disposition"]
    assert client.get(f"/jobs/{job_id}").json()["adapter"] == adapter.id
    error = assert_error(client.get(f"/adapters/{adapter.id}/download?format=onnx"), 422, "unknown_format")
    assert error["param"] == "format"
    assert_error(client.get(f"/adapters/{adapter.id}/download", headers=stranger), 404, "adapter_not_found")
