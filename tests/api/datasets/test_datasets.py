"""Datasets: what an upload may look like, what is stored of it, and when a dataset may be deleted."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from api.datasets.upload_stream import MAX_LOOSE, MAX_OVERHEAD
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Dataset
from tests.api.conftest import Rows, bearer
from tests.api.kit.test_errors import assert_error

Part = tuple[str, str | tuple[str, bytes]]  # (field, its text) or ("file", (its name, its bytes))

WRONG_FORMS: list[tuple[list[Part], str, str | None]] = [
    ([], "missing_file", "file"),
    ([("name", "pets")], "missing_file", "file"),
    ([("file", ("", b"PK"))], "missing_file", "file"),
    ([("file", "text")], "unknown_field", "file"),
    ([("file", ("cat.png", b"x")), ("label", "cat")], "invalid_value", "label"),
    ([("label", "a"), ("file", ("a.json", b"[]"))], "invalid_value", "label"),
    ([("file", ("a.jsonl", b"{}")), ("file", ("b.jsonl", b"{}"))], "invalid_value", "file"),
    ([("file", ("a.png", b"x")), ("file", ("b.json", b"[]"))], "invalid_value", "file"),
    ([("data", ("a.zip", b"PK"))], "unknown_field", "data"),
    ([("label", "cat"), ("file", ("a.zip", b"PK"))], "invalid_value", "label"),
    ([("label", "a/b"), ("file", ("a.png", b"x"))], "invalid_value", "label"),
    ([("label", ".."), ("file", ("a.png", b"x"))], "invalid_value", "label"),
    ([("label", " "), ("file", ("a.png", b"x"))], "invalid_value", "label"),
    ([("label", "a\u202eb"), ("file", ("a.png", b"x"))], "invalid_value", "label"),
    ([("label", "a\x9b31mb"), ("file", ("a.png", b"x"))], "invalid_value", "label"),
    ([("label", "x" * 201), ("file", ("a.png", b"x"))], "invalid_value", "label"),
    ([("name", "x" * 2000), ("file", ("a.zip", b"x"))], "invalid_value", "name"),
    ([("name", "a\0b"), ("file", ("a.zip", b"x"))], "invalid_value", "name"),
    ([("label", "a"), ("label", "b"), *[("file", ("a.png", b"x"))] * 3], "invalid_value", "label"),
    ([("label", "a"), ("label", "b"), ("file", ("a.png", b"x"))], "invalid_value", "label"),
    ([("file", ("a.zip", b"PK")), ("file", ("b.zip", b"PK"))], "invalid_value", "file"),
    ([("format", "imagenet"), ("file", ("a.zip", b"PK"))], "unknown_format", "format"),
    ([("label", "a"), ("file", ("a.png", b"x")), ("format", "folders")], "invalid_value", "format"),
    ([("label", "a"), ("file", ("a.png", b"x")), ("file", ("b.zip", b"PK"))], "invalid_value", "file"),
]


def form(parts: list[Part], boundary: str = "b") -> bytes:
    body = b""
    for field, content in parts:
        name = "" if isinstance(content, str) else f'; filename="{content[0]}"'
        data = content.encode() if isinstance(content, str) else content[1]
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{name}\r\n\r\n'.encode() + data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def upload(client: TestClient, parts: list[Part]) -> Any:
    return client.post("/datasets", content=form(parts), headers={"content-type": "multipart/form-data; boundary=b"})


def stored_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def test_an_archive_is_stored_as_it_was_sent(client: TestClient, store: ObjectStore) -> None:
    data = bytes(range(256)) * 1000 + b"\r\n--b\r\n-almost a boundary"
    answer = client.post("/datasets", files={"file": ("My Pets.tar.gz", data)})
    assert answer.status_code == 202, answer.text
    dataset = answer.json()
    assert answer.headers["location"] == f"/datasets/{dataset['id']}"
    assert (dataset["name"], dataset["status"], dataset["bytes"]) == ("My Pets", "checking", len(data))
    assert dataset["examples"] is dataset["classes"] is dataset["report"] is dataset["error"] is None
    assert store.get_bytes(f"datasets/{dataset['id']}/upload") == data
    assert client.get(f"/datasets/{dataset['id']}").json() == dataset


@pytest.mark.parametrize("suffix", ["tar.bz2", "tbz2", "tar.xz", "txz", "tar.zst", "tzst", "jsonl.gz"])
def test_compressed_uploads_are_taken_as_they_are_and_their_names_kept(
    client: TestClient, sessions: sessionmaker[Session], suffix: str
) -> None:
    answer = upload(client, [("name", "a set"), ("file", (f"pets.{suffix}", b"x"))])
    assert answer.status_code == 202, answer.text
    with sessions() as session:
        dataset = session.get_one(Dataset, answer.json()["id"])
    assert (dataset.name, dataset.upload_name) == ("a set", f"pets.{suffix}")


@pytest.mark.parametrize("name", ["pets.7z", "Pets.RAR", "pets.zipx", "pets.lz4"])
def test_archives_that_are_not_read_are_refused_by_name_before_they_are_sent(client: TestClient, name: str) -> None:
    answer = upload(client, [("file", (name, b"x" * 1000))])
    assert_error(answer, 422, "unsupported_archive")
    message = answer.json()["error"]["message"]
    assert f".{name.rpartition('.')[2]} are not read" in message
    assert ".tar.xz" in message


def test_an_archive_may_name_its_format(client: TestClient) -> None:
    for parts, format in (([("format", "food-101")], "food-101"), ([], None)):
        answer = upload(client, [*parts, ("file", ("a.zip", b"PK"))])
        assert answer.status_code == 202, answer.text
        assert answer.json()["format"] == client.get(f"/datasets/{answer.json()['id']}").json()["format"] == format


def test_loose_images_become_a_tar_of_class_folders(client: TestClient, store: ObjectStore) -> None:
    big = b"z" * 3_000_001
    parts: list[Part] = [("label", "cat"), ("file", ("a.png", b"one")), ("file", ("../x/a.png", b"two")), ("label", "größe")]
    answer = upload(client, [*parts, ("file", ("b.png", big)), ("name", "mine")])
    assert answer.status_code == 202, answer.text
    assert answer.json()["name"] == "mine"
    with tarfile.open(fileobj=io.BytesIO(store.get_bytes(f"datasets/{answer.json()['id']}/upload"))) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        contents = {name: file.read() for name, file in found.items() if file is not None}
    assert contents == {"cat/a.png": b"one", "cat/a-2.png": b"two", "größe/b.png": big}


def test_loose_files_without_labels_stay_beside_each_other(client: TestClient, store: ObjectStore) -> None:
    parts: list[Part] = [("file", (name, name.encode())) for name in ("a.png", "a.txt", "a.png", "metadata.jsonl")]
    answer = upload(client, [*parts, ("format", "captions")])
    assert answer.status_code == 202, answer.text
    assert answer.json()["format"] == "captions"
    with tarfile.open(fileobj=io.BytesIO(store.get_bytes(f"datasets/{answer.json()['id']}/upload"))) as archive:
        assert archive.getnames() == ["a.png", "a.txt", "a-2.png", "metadata.jsonl"]


def test_texts_are_stored_as_they_were_sent(client: TestClient, store: ObjectStore) -> None:
    for name, data in (("alpaca.json", b"[1]"), ("My chat.JSONL", b"{}\n{}")):
        answer = client.post("/datasets", files={"file": (name, data)})
        assert answer.status_code == 202, answer.text
        assert answer.json()["name"] == name.rpartition(".")[0]
        assert store.get_bytes(f"datasets/{answer.json()['id']}/upload") == data


def test_a_dataset_of_texts_has_no_preview(client: TestClient, rows: Rows) -> None:
    dataset = rows.dataset(preview_key=None)
    error = assert_error(client.get(f"/datasets/{dataset.id}/preview"), 404, "no_preview")
    assert "of texts" in error["message"]


def test_labels_may_all_come_before_the_files(client: TestClient, store: ObjectStore) -> None:
    answer = upload(client, [("label", "a"), ("label", "b"), ("file", ("1.png", b"1")), ("file", ("2.png", b"2"))])
    with tarfile.open(fileobj=io.BytesIO(store.get_bytes(f"datasets/{answer.json()['id']}/upload"))) as archive:
        assert archive.getnames() == ["a/1.png", "b/2.png"]


def test_a_wrong_form_names_its_field_and_leaves_nothing(
    client: TestClient, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    for parts, code, param in WRONG_FORMS:
        error = assert_error(upload(client, parts), 422, code)
        assert error["param"] == param, parts
    assert_error(client.post("/datasets", json={}), 415, "unsupported_media_type")
    multipart = {"content-type": "multipart/form-data"}
    assert_error(client.post("/datasets", content=b"x", headers=multipart), 400, "invalid_multipart")
    multipart = {"content-type": "multipart/form-data; boundary=b"}
    assert_error(client.post("/datasets", content=b"nonsense", headers=multipart), 400, "invalid_multipart")
    cut = form([("file", ("a.zip", b"x" * 6_000_000))])[:-8]
    assert_error(client.post("/datasets", content=cut, headers=multipart), 400, "invalid_multipart")
    assert_nothing_is_left(sessions, tmp_path)


def assert_nothing_is_left(sessions: sessionmaker[Session], tmp_path: Path) -> None:
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 0
    assert stored_files(tmp_path) == []


def test_files_of_one_name_and_labels_are_counted(client: TestClient, store: ObjectStore) -> None:
    """Their names are found, and their number is limited, without a look at all that came before."""
    some: list[Part] = [("file", ("a.png", b"x"))] * 1_000
    answer = upload(client, some)
    assert answer.status_code == 202, answer.text
    with tarfile.open(fileobj=io.BytesIO(store.get_bytes(f"datasets/{answer.json()['id']}/upload"))) as archive:
        assert archive.getnames() == ["a.png", *(f"a-{number}.png" for number in range(2, 1_001))]
    too_many: list[list[Part]] = [[("file", ("a.png", b"x"))] * (MAX_LOOSE + 1), [("label", "a")] * (MAX_LOOSE + 10)]
    for parts in too_many:
        assert_error(upload(client, parts), 413, "too_many_files")
    assert upload(client, [("file", ("a.png", b"x" * MAX_OVERHEAD)), ("name", "x")]).status_code == 202
    after_the_end = form(some[:1]) + b"\n" * (MAX_OVERHEAD + 1)
    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert_error(client.post("/datasets", content=after_the_end, headers=headers), 413, "upload_too_large")


def test_an_upload_above_the_limit_leaves_nothing(
    settings: Settings, rows: Rows, api_key: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    small = settings.model_copy(update={"max_upload_bytes": 6_000_000, "max_archive_files": 2})
    with TestClient(create_app(small), headers=bearer(api_key)) as client:
        too_large = upload(client, [("file", ("a.zip", b"x" * 6_000_001))])
        assert assert_error(too_large, 413, "upload_too_large")["param"] == "file"
        assert_error(upload(client, [("label", "a"), *[("file", ("a.png", b"x"))] * 3]), 413, "too_many_files")
    assert_nothing_is_left(sessions, tmp_path)


def test_a_dataset_is_deleted_with_its_files_but_stays_known(
    client: TestClient, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    dataset_id = upload(client, [("file", ("a.zip", b"PK"))]).json()["id"]
    for _ in range(2):
        assert client.delete(f"/datasets/{dataset_id}").status_code == 204
    assert client.get(f"/datasets/{dataset_id}").json()["status"] == "deleted"
    assert client.get("/datasets").json()["data"] == []
    assert stored_files(tmp_path) == []


def test_a_dataset_in_use_is_not_deleted(client: TestClient, rows: Rows) -> None:
    dataset = rows.dataset()
    job_id = rows.job(client, dataset=dataset.id)
    assert job_id in assert_error(client.delete(f"/datasets/{dataset.id}"), 409, "dataset_in_use")["message"]
    client.post(f"/jobs/{job_id}/cancel")
    assert client.delete(f"/datasets/{dataset.id}").status_code == 204


def test_a_preview_is_there_when_the_dataset_is_ready(client: TestClient, rows: Rows, store: ObjectStore) -> None:
    store.put_bytes("preview", b"a picture")
    shown = client.get(f"/datasets/{rows.dataset(preview_key='preview').id}/preview")
    assert (shown.content, shown.headers["content-type"]) == (b"a picture", "image/png")
    assert_error(client.get(f"/datasets/{rows.dataset('checking').id}/preview"), 409, "dataset_not_ready")
    assert_error(client.get(f"/datasets/{rows.dataset('failed').id}/preview"), 404, "no_preview")
    lost = client.get(f"/datasets/{rows.dataset(preview_key='lost').id}/preview")
    assert_error(lost, 503, "object_missing")


def test_another_tenant_sees_nothing_of_a_dataset(client: TestClient, rows: Rows, stranger: dict[str, str]) -> None:
    dataset = rows.dataset()
    assert [d["id"] for d in client.get("/datasets").json()["data"]] == [dataset.id]
    assert client.get("/datasets", headers=stranger).json()["data"] == []
    for method, path in (("GET", ""), ("GET", "/preview"), ("DELETE", "")):
        assert_error(client.request(method, f"/datasets/{dataset.id}{path}", headers=stranger), 404, "dataset_not_found")
