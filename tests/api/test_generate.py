"""Requests for images: how they are resolved, how long they wait, and what is refused."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from difffit_core.base_models import load_catalog
from jobstore import events, leases
from jobstore.ids import new_id
from jobstore.objects import ObjectStore
from jobstore.tables import Generation, Image
from tests.api.conftest import Rows
from tests.api.test_errors import assert_error

BASE = "emoji-dit"


def test_a_request_is_resolved_and_queued(client: TestClient, sessions: sessionmaker[Session]) -> None:
    names = load_catalog()[BASE].class_names()
    answer = client.post("/generate", json={"base_model": BASE, "labels": [names[3], 0], "n": 2, "steps": 5})
    assert answer.status_code == 202
    view = answer.json()
    assert answer.headers["location"] == f"/generate/{view['id']}"
    assert (view["status"], view["adapter"], view["base_model"], view["images"]) == ("queued", None, BASE, [])
    assert view["parameters"]["labels"] == [names[3], names[3], names[0], names[0]]
    assert view["parameters"]["steps"] == 5
    assert view["parameters"]["scheduler"] == "dpmsolver++"
    assert isinstance(view["parameters"]["seed"], int)
    with sessions() as session:
        assert session.get_one(Generation, view["id"]).parameters["labels"] == [3, 3, 0, 0]
    assert client.get(answer.headers["location"]).json() == view


def test_an_adapter_has_its_own_classes(client: TestClient, rows: Rows, stranger: dict[str, str]) -> None:
    adapter = rows.adapter(rows.job(client, "succeeded"))
    answer = client.post("/generate", json={"adapter": adapter.id, "labels": ["dog"], "seed": 0})
    assert answer.json()["parameters"] | {"guidance_scale": 0} == {
        "labels": ["dog"],
        "steps": 30,
        "guidance_scale": 0,
        "seed": 0,
        "scheduler": "dpmsolver++",
        "adapter_strength": 1.0,
    }
    assert_error(client.get(f"/generate/{answer.json()['id']}", headers=stranger), 404, "generation_not_found")
    theirs = client.post("/generate", json={"adapter": adapter.id, "labels": ["dog"]}, headers=stranger)
    assert assert_error(theirs, 404, "adapter_not_found")["param"] == "adapter"


def test_wrong_requests_name_their_field(client: TestClient, rows: Rows) -> None:
    adapter = rows.adapter(rows.job(client, "succeeded")).id
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"labels": ["dogg"]}, "unknown_label", "labels"),
        ({"labels": [2]}, "unknown_label", "labels"),
        ({"labels": [-1]}, "unknown_label", "labels"),
        ({"labels": [True]}, "invalid_value", "labels.0"),
        ({"labels": []}, "invalid_value", "labels"),
        ({"labels": "dog"}, "invalid_value", "labels"),
        ({"labels": None}, "invalid_value", "labels"),
        ({"n": 65}, "too_many_images", "n"),
        ({"n": 0}, "invalid_value", "n"),
        ({"steps": 0}, "invalid_value", "steps"),
        ({"guidance_scale": "big"}, "invalid_value", "guidance_scale"),
        ({"adapter_strength": 2.1}, "invalid_value", "adapter_strength"),
        ({"adapter": None, "base_model": BASE, "adapter_strength": 1}, "no_adapter", "adapter_strength"),
        ({"scheduler": "euler"}, "unknown_scheduler", "scheduler"),
        ({"seed": 2**53}, "invalid_value", "seed"),
        ({"base_model": BASE}, "one_model_only", "adapter"),
        ({"adapter": None}, "one_model_only", "adapter"),
        ({"adapter": None, "base_model": "none"}, "unknown_base_model", "base_model"),
        ({"prompt": "a dog"}, "unknown_field", "prompt"),
    ]
    for change, code, param in wrong:
        error = assert_error(client.post("/generate", json={"adapter": adapter, "labels": ["dog"]} | change), 422, code)
        assert error["param"] == param
    message = client.post("/generate", json={"adapter": adapter, "labels": ["dogg"]}).json()["error"]["message"]
    assert "Did you mean 'dog'? It has 2, by index from 0: cat, dog." in message


@contextmanager
def working(sessions: sessionmaker[Session], finish: Callable[[Session, Generation], None]) -> Iterator[None]:
    """A thread that claims the next generation as a worker does and ends it by `finish`."""

    def work() -> None:
        generation: Generation | None = None
        while generation is None and not stopped.wait(0.02):
            with sessions() as session:
                generation = session.scalar(select(Generation).where(Generation.status == "queued"))
        if generation is None:
            return
        with sessions.begin() as session:
            token = leases.claim(session, Generation, generation.id, 30)
        assert token is not None
        with sessions.begin() as session:
            finish(session, generation)
            status = "failed" if generation.error else "succeeded"
            assert leases.finish(session, Generation, generation.id, token, status, error=generation.error)
            events.notify(session, "generation", generation.id)

    stopped = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_a_request_waits_as_long_as_it_says(client: TestClient, sessions: sessionmaker[Session], store: ObjectStore) -> None:
    name = load_catalog()[BASE].class_names()[1]

    def finish(session: Session, generation: Generation) -> None:
        row = Image(id=new_id("img"), tenant_id=generation.tenant_id, generation_id=generation.id, position=0)
        row.object_key, row.width, row.height, row.details = "picture", 64, 64, {"label": name, "seed": 9}
        session.add(row)

    store.put_bytes("picture", b"a picture")
    request = {"base_model": BASE, "labels": [1], "seed": 9}
    with working(sessions, finish):
        answer = client.post("/generate", json=request, headers={"prefer": "respond-async, wait=50"})
    assert answer.status_code == 201, answer.text
    image = answer.json()["images"][0]
    assert image == {"id": image["id"], "url": f"/images/{image['id']}", "label": name, "seed": 9, "width": 64, "height": 64}
    assert client.get(image["url"]).content == b"a picture"
    with working(sessions, finish):
        picture = client.post("/generate", json=request, headers={"accept": "image/png"})
    assert (picture.status_code, picture.content, picture.headers["content-type"]) == (201, b"a picture", "image/png")
    late = client.post("/generate", json=request, headers={"accept": "image/png", "prefer": "wait=0"})
    assert late.status_code == 202
    assert late.json()["status"] == "queued"


def test_a_failed_generation_says_why(client: TestClient, sessions: sessionmaker[Session]) -> None:
    def finish(_session: Session, generation: Generation) -> None:
        generation.error = {"code": "out_of_memory", "message": "The GPU is full.", "param": None}

    request = {"base_model": BASE, "labels": [1]}
    with working(sessions, finish):
        answer = client.post("/generate", json=request, headers={"prefer": "wait=50"})
    assert answer.status_code == 201
    assert (answer.json()["status"], answer.json()["error"]["code"]) == ("failed", "out_of_memory")
    with working(sessions, finish):
        assert_error(client.post("/generate", json=request, headers={"accept": "image/png"}), 500, "out_of_memory")


def test_a_direct_picture_is_one_picture(client: TestClient) -> None:
    answer = client.post("/generate", json={"base_model": BASE, "labels": [1, 2]}, headers={"accept": "image/png"})
    assert_error(answer, 406, "one_image_only")
