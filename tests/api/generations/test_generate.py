"""Requests for images: how they are resolved, how long they wait, and what is refused."""

import base64
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from difffit_core.spec.catalog import load_catalog
from jobstore.generations.text_stream import TextWriter
from jobstore.jobs import events
from jobstore.kit import leases
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Generation, Image, Tenant
from tests.api.conftest import Rows, bearer
from tests.api.kit.test_errors import assert_error

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
    assert answer.json()["parameters"] == {
        "labels": ["dog"],
        "prompts": None,
        "negative_prompt": "",
        "steps": 30,
        "guidance_scale": 3.0,
        "seed": 0,
        "scheduler": "dpmsolver++",
        "width": 64,
        "height": 64,
        "messages": None,
        "frame": None,
        "max_tokens": None,
        "temperature": None,
        "top_p": None,
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
        ({"labels": None}, "missing_field", "labels"),
        ({"prompts": ["a dog"]}, "not_for_this_model", "prompts"),
        ({"condition_image": ""}, "not_for_this_model", "condition_image"),
        ({"n": 65}, "too_many_results", "n"),
        ({"n": 0}, "invalid_value", "n"),
        ({"width": 128, "height": 64}, "wrong_size", "width"),
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
def working(
    sessions: sessionmaker[Session], finish: Callable[[Session, Generation], None], ends: bool = True
) -> Iterator[None]:
    """A thread that claims the next generation as a worker does, calls `finish`, and ends it unless that has."""

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
            if not ends:
                return
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


@pytest.fixture
def tiny(settings: Settings, api_key: str, tenant: Tenant, tiny_catalog: Path) -> Iterator[TestClient]:
    """The app with a tiny base for each task."""
    with TestClient(create_app(settings.model_copy(update={"models": tiny_catalog})), headers=bearer(api_key)) as client:
        yield client


def test_models_take_what_their_task_takes(tiny: TestClient) -> None:
    texts = tiny.post("/generate", json={"base_model": "tiny-instruction", "prompts": ["1 + 1 = ", "hi"], "n": 2, "seed": 5})
    assert texts.status_code == 202
    assert texts.json()["parameters"] == {
        "labels": None,
        "prompts": ["1 + 1 = ", "1 + 1 = ", "hi", "hi"],
        "messages": None,
        "frame": "none",
        "negative_prompt": None,
        "steps": None,
        "guidance_scale": None,
        "seed": 5,
        "scheduler": None,
        "width": None,
        "height": None,
        "max_tokens": None,
        "temperature": 0.7,
        "top_p": 0.9,
        "adapter_strength": 1.0,
    }
    pictures = {"base_model": "tiny-text-to-image", "prompts": ["a cat, a dog\nand more"], "negative_prompt": "rain"}
    view = tiny.post("/generate", json=pictures).json()
    assert (view["parameters"]["prompts"], view["parameters"]["negative_prompt"]) == (["a cat, a dog\nand more"], "rain")


def test_what_a_task_does_not_take_is_refused(tiny: TestClient) -> None:
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\nand so on").decode()
    wrong: list[tuple[str, dict[str, Any], str, str | None]] = [
        ("text-to-image", {"labels": ["cat"]}, "not_for_this_model", "labels"),
        ("text-to-image", {}, "missing_field", "prompts"),
        ("text-to-image", {"prompts": ["x"], "condition_image": picture}, "not_for_this_model", "condition_image"),
        ("text-to-image", {"prompts": ["\0"]}, "invalid_value", None),
        ("controlnet", {"prompts": ["x"]}, "missing_field", "condition_image"),
        ("controlnet", {"prompts": ["x"], "condition_image": "?"}, "not_an_image", "condition_image"),
        ("controlnet", {"prompts": ["x"], "condition_image": "aGk="}, "not_an_image", "condition_image"),
        ("instruction", {"prompts": ["x"], "max_tokens": 256}, "context_exceeded", "max_tokens"),
        ("instruction", {"prompts": ["x"], "max_tokens": 0}, "invalid_value", "max_tokens"),
        ("instruction", {"prompts": ["x"], "steps": 5}, "not_for_this_model", "steps"),
        ("instruction", {"prompts": ["x"], "temperature": -1}, "invalid_value", "temperature"),
        ("instruction", {"prompts": ["x"], "top_p": 0}, "invalid_value", "top_p"),
        ("instruction", {"prompts": ["x"] * 64, "n": 2}, "too_many_results", "n"),
    ]
    for task, body, code, param in wrong:
        answer = tiny.post("/generate", json={"base_model": f"tiny-{task}"} | body)
        assert assert_error(answer, 422, code)["param"] == param
    as_png = tiny.post("/generate", json={"base_model": "tiny-instruction", "prompts": ["x"]}, headers={"accept": "image/png"})
    assert_error(as_png, 406, "no_image")


@pytest.mark.parametrize(
    ("task", "size", "code", "param"),
    [
        ("text-to-image", {"width": 24}, "missing_field", "height"),
        ("text-to-image", {"height": 24}, "missing_field", "width"),
        ("text-to-image", {"width": 24.5, "height": 16}, "invalid_value", "width"),
        ("text-to-image", {"width": 16, "height": 7}, "invalid_value", "height"),
        ("text-to-image", {"width": 16, "height": 18}, "wrong_size", "height"),
        ("text-to-image", {"width": 16, "height": 68}, "wrong_size", "height"),
        ("text-to-image", {"width": 36, "height": 32}, "wrong_size", "width"),
        ("text-to-image", {"width": 32, "height": 32, "n": 17}, "too_many_results", "n"),
        ("instruction", {"width": 16, "height": 16}, "not_for_this_model", "height"),
    ],
)
def test_sizes_that_are_not_made_are_refused(tiny: TestClient, task: str, size: dict[str, Any], code: str, param: str) -> None:
    answer = tiny.post("/generate", json={"base_model": f"tiny-{task}", "prompts": ["a cat"]} | size)
    assert assert_error(answer, 422, code)["param"] == param


def test_pictures_may_be_wide_and_tall(tiny: TestClient) -> None:
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\nand so on").decode()
    asked: dict[str, Any] = {"base_model": "tiny-controlnet", "prompts": ["a cat"], "condition_image": picture}
    as_the_condition = tiny.post("/generate", json=asked).json()["parameters"]
    assert (as_the_condition["width"], as_the_condition["height"]) == (None, None)
    wide = tiny.post("/generate", json=asked | {"width": 24, "height": 16}).json()["parameters"]
    assert (wide["width"], wide["height"]) == (24, 16)
    square = tiny.post("/generate", json={"base_model": "tiny-text-to-image", "prompts": ["a cat"]}).json()["parameters"]
    assert (square["width"], square["height"]) == (16, 16)
    most = {"base_model": "tiny-text-to-image", "prompts": ["a cat"], "width": 32, "height": 32, "n": 16}
    assert tiny.post("/generate", json=most).status_code == 202


def test_a_condition_picture_waits_in_the_store(tiny: TestClient, sessions: sessionmaker[Session], store: ObjectStore) -> None:
    picture = b"\x89PNG\r\n\x1a\nand so on"
    encoded = base64.b64encode(picture).decode()
    for sent in (encoded, f"data:image/png;base64,{encoded}"):  # the second as browsers write it
        body = {"base_model": "tiny-controlnet", "prompts": ["a cat"], "condition_image": sent}
        view = tiny.post("/generate", json=body).json()
        with sessions() as session:
            key = session.get_one(Generation, view["id"]).condition_key
        assert key is not None
        assert store.get_bytes(key) == picture
    kept = [file.key for file in store.list("conditions/")]
    assert_error(tiny.post("/generate", json=body | {"seed": -1}), 422, "invalid_value")
    assert_error(tiny.post("/generate", json=body | {"labels": ["cat"]}), 422, "not_for_this_model")
    assert sorted(file.key for file in store.list("conditions/")) == sorted(kept)  # nothing of what was refused


def test_nothing_may_be_asked_for(tiny: TestClient) -> None:
    """The unconditional picture is that of the empty prompt; a language model has nothing to answer to it."""
    request = {"base_model": "tiny-text-to-image", "prompts": [""], "negative_prompt": ""}
    parameters = tiny.post("/generate", json=request).json()["parameters"]
    assert (parameters["prompts"], parameters["negative_prompt"]) == ([""], "")
    for prompt in ("", " "):
        answer = tiny.post("/generate", json={"base_model": "tiny-instruction", "prompts": [prompt]})
        assert assert_error(answer, 422, "invalid_value")["param"] == "prompts"


def test_a_generation_is_deleted_with_its_files(
    tiny: TestClient, sessions: sessionmaker[Session], store: ObjectStore, stranger: dict[str, str]
) -> None:
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\nand so on").decode()
    posted = tiny.post("/generate", json={"base_model": "tiny-controlnet", "prompts": ["a cat"], "condition_image": picture})
    location, generation_id = posted.headers["location"], posted.json()["id"]
    image = Image(id=new_id("img"), generation_id=generation_id, position=0, object_key="images/i.png", width=8, height=8)
    store.put_bytes(image.object_key, b"a picture")
    with sessions.begin() as session:
        generation = session.get_one(Generation, generation_id)
        condition = str(generation.condition_key)
        image.tenant_id, image.details = generation.tenant_id, {"label": "a cat", "seed": 1}
        session.add(image)
        token = leases.claim(session, Generation, generation_id, 30)
        assert token is not None
    assert_error(tiny.delete(location, headers=stranger), 404, "generation_not_found")
    assert store.exists(condition)
    assert tiny.delete(location).status_code == 204
    assert not store.exists(condition)
    assert not store.exists(image.object_key)
    for gone in (tiny.get(location), tiny.delete(location), tiny.delete("/generate/gen_%00")):
        assert_error(gone, 404, "generation_not_found")
    assert_error(tiny.get(f"/images/{image.id}"), 404, "image_not_found")
    with sessions.begin() as session:  # the worker that was at it
        assert not leases.finish(session, Generation, generation_id, token, "succeeded")


def test_who_waits_for_a_generation_that_is_deleted_is_told(tiny: TestClient, sessions: sessionmaker[Session]) -> None:
    def delete(_: Session, generation: Generation) -> None:
        assert tiny.delete(f"/generate/{generation.id}").status_code == 204

    def watch(headers: dict[str, str]) -> Response:
        with working(sessions, delete, ends=False):
            return tiny.post("/generate", json={"base_model": "tiny-instruction", "prompts": ["hi"]}, headers=headers)

    assert_error(watch({"prefer": "wait=60"}), 404, "generation_not_found")
    assert events_of(watch({"accept": "text/event-stream"})) == [("deleted", {})]


def events_of(answer: Response) -> list[tuple[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.partition(": ") for line in answer.text.splitlines() if line and not line.startswith(":")]
    names, data = ([value for field, _, value in lines if field == name] for name in ("event", "data"))
    return list(zip(names, map(json.loads, data), strict=True))


def test_texts_come_word_by_word(tiny: TestClient, sessions: sessionmaker[Session], settings: Settings) -> None:
    def finish(session: Session, generation: Generation) -> None:
        lost = TextWriter(settings.redis_url.get_secret_value(), generation.id)
        lost.write(0, "A word of a worker that dies. ")
        writer = TextWriter(settings.redis_url.get_secret_value(), generation.id)
        for word in ("It is ", "two."):
            writer.write(0, word)
        text = {"prompt": "1 + 1?", "text": "It is two.", "seed": 5, "tokens": 4, "finish_reason": "stop"}
        session.get_one(Generation, generation.id).texts = [text]

    request = {"base_model": "tiny-instruction", "prompts": ["1 + 1?"], "seed": 5}
    with working(sessions, finish):
        answer = tiny.post("/generate", json=request, headers={"accept": "text/event-stream"})
    events = events_of(answer)
    assert [name for name, _ in events] == ["begin", "text", "begin", "text", "text", "succeeded"]
    assert "".join(data["text"] for _, data in events[3:5]) == events[-1][1]["texts"][0]["text"] == "It is two."
    again = tiny.get(answer.headers["location"], headers={"accept": "text/event-stream"})
    assert again.text == answer.text
    after = re.findall(r"^id: (.+)$", answer.text, re.MULTILINE)[3]
    rest = tiny.get(answer.headers["location"], headers={"accept": "text/event-stream", "last-event-id": after})
    assert events_of(rest) == events[4:]


def test_prompts_and_messages_of_a_language_model_stand_in_a_frame(tiny: TestClient) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    asked: list[tuple[dict[str, Any], str]] = [
        ({"prompts": ["Hi"]}, "none"),  # the tiny tokenizer has no chat template
        ({"prompts": ["Hi"], "frame": "alpaca"}, "alpaca"),
        ({"messages": talk, "n": 2}, "chat"),
    ]
    for request, frame in asked:
        parameters = tiny.post("/generate", json={"base_model": "tiny-instruction"} | request).json()["parameters"]
        assert (parameters["frame"], parameters["messages"]) == (frame, request.get("messages"))
    answer = [*talk, {"role": "assistant", "content": "Hello"}]
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({}, "missing_field", "prompts"),
        ({"messages": talk, "prompts": ["Hi"]}, "invalid_value", "messages"),
        ({"messages": answer}, "invalid_value", "messages"),
        ({"messages": talk, "frame": "none"}, "not_for_this_model", "messages"),
        ({"messages": talk, "n": 65}, "too_many_results", "n"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"prompts": ["Hi"], "frame": "vicuna"}, "invalid_value", "frame"),
    ]
    for request, code, param in wrong:
        error = assert_error(tiny.post("/generate", json={"base_model": "tiny-instruction"} | request), 422, code)
        assert error["param"] == param
    picture = tiny.post("/generate", json={"base_model": "tiny-text-to-image", "messages": talk})
    assert assert_error(picture, 422, "not_for_this_model")["param"] == "messages"


def test_only_texts_come_word_by_word(tiny: TestClient) -> None:
    request = {"base_model": "tiny-text-to-image", "prompts": ["a cat"]}
    assert_error(tiny.post("/generate", json=request, headers={"accept": "text/event-stream"}), 406, "no_text")
    location = tiny.post("/generate", json=request).headers["location"]
    assert_error(tiny.get(location, headers={"accept": "text/event-stream"}), 406, "no_text")


LONG = "x" * 260  # tokens of one character, in a context of 256
TALK: list[dict[str, Any]] = [{"role": "user", "content": "x" * 100}, {"role": "assistant", "content": "x" * 100}]


@pytest.mark.parametrize(
    ("asked", "code", "param", "words"),
    [
        ({"prompts": [LONG]}, "prompt_too_long", "prompts", "has 262 tokens, and the model reads 256"),
        ({"prompts": ["x" * 254]}, "prompt_too_long", "prompts", "has 256 tokens, and the model reads 256"),
        ({"prompts": ["hi", LONG, "ho"], "n": 2}, "prompt_too_long", "prompts", "has 262 tokens"),
        ({"prompts": ["\N{GRINNING FACE}" * 70]}, "prompt_too_long", "prompts", "tokens, and the model reads 256"),
        ({"prompts": [LONG], "frame": "alpaca"}, "prompt_too_long", "prompts", "has at least 259 tokens"),
        ({"prompts": ["x" * 253], "max_tokens": 2}, "context_exceeded", "max_tokens", "has 255 tokens; .* Ask for 1 at most"),
        ({"prompts": ["say"], "max_tokens": 252}, "context_exceeded", "max_tokens", "has 5 tokens; .* Ask for 251 at most"),
        (
            {"messages": [*TALK, {"role": "user", "content": "y", "input": "x" * 80}]},
            "prompt_too_long",
            "messages",
            "conversation that ends with 'y' has at least 27. tokens",
        ),
    ],
)
def test_what_a_language_model_cannot_read_is_refused_at_once(
    tiny: TestClient, sessions: sessionmaker[Session], asked: dict[str, Any], code: str, param: str, words: str
) -> None:
    request = {"base_model": "tiny-instruction"} | asked
    for headers in ({}, {"accept": "text/event-stream"}):
        error = assert_error(tiny.post("/generate", json=request, headers=headers), 422, code)
        assert error["param"] == param
        assert re.search(words, error["message"])
    with sessions() as session:
        assert list(session.scalars(select(Generation))) == []


@pytest.mark.parametrize(
    "asked",
    [
        {"prompts": ["x" * 253]},
        {"prompts": ["x" * 253], "max_tokens": 1},
        {"prompts": [" " * 300 + "hi" + "\n" * 300], "frame": "chat"},  # templates leave out the space around a message
        {"prompts": ["x" * 250], "frame": "chat"},  # its frame is the worker's to count
        {"prompts": ["</s>" * 200]},  # marks of one token each
        {"messages": [*TALK, {"role": "user", "content": "x" * 50}]},
    ],
)
def test_what_may_have_room_is_left_to_the_worker(tiny: TestClient, asked: dict[str, Any]) -> None:
    assert tiny.post("/generate", json={"base_model": "tiny-instruction"} | asked).status_code == 202


def test_the_process_that_counts_tokens_may_end(tiny: TestClient) -> None:
    """Without it the worker decides, and the next prompt finds another; so it does of a tokenizer that it cannot read."""

    def post(prompt: str = LONG) -> Response:
        return tiny.post("/generate", json={"base_model": "tiny-instruction", "prompts": [prompt]})

    def counter() -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = tiny.app.state.resources.prompts._process  # type: ignore[attr-defined]
        return process

    assert_error(post(), 422, "prompt_too_long")
    first = counter()
    first.kill()
    first.wait()
    assert post().status_code == 202
    assert_error(post(), 422, "prompt_too_long")
    assert counter() is not first
    file = tiny.app.state.resources.catalog["tiny-instruction"].tokenizer_file()  # type: ignore[attr-defined]
    whole = file.read_text()
    try:
        file.write_text("{}")
        assert post().status_code == 202
        other = file.rename(file.with_name("tokenizer.model"))
        assert post().status_code == 202
        other.unlink()
    finally:
        file.write_text(whole)
    assert_error(post(), 422, "prompt_too_long")
