"""The API on an S3 bucket: uploads go into it, adapters and pictures come out of it, through the API or by a signed URL."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from client.api import Client
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Dataset, Generation, Image, Tenant
from jobstore.uploads.service import SIGNED_BYTES, upload_keys
from tests.api.conftest import Rows, bearer
from tests.api.datasets.test_datasets import upload
from tests.api.jobs.test_streams import server_in_this_process
from tests.api.kit.test_errors import assert_error
from worker.kit.garbage import unnamed


@pytest.mark.parametrize("signed", [False, True])
def test_files_go_into_the_bucket_and_come_out(
    settings: Settings, bucket_url: str, rows: Rows, api_key: str, client: TestClient, signed: bool
) -> None:
    adapter = rows.adapter(rows.job(client, "succeeded"), b"weights")
    store = ObjectStore(bucket_url)
    store.put_bytes(adapter.object_key, b"weights")
    in_bucket = settings.model_copy(update={"storage_url": bucket_url, "signed_urls": signed})
    with TestClient(create_app(in_bucket), headers=bearer(api_key)) as on_bucket:
        assert on_bucket.get("/readyz").status_code == 200
        large = b"x" * 12_000_000  # goes up in three parts
        dataset = upload(on_bucket, [("file", ("a.zip", large))]).json()
        assert store.get_bytes(f"datasets/{dataset['id']}/upload") == large
        answer = on_bucket.get(f"/adapters/{adapter.id}/download", follow_redirects=False)
    if signed:
        assert answer.status_code == 307
        assert httpx.get(answer.headers["location"]).content == b"weights"
    else:
        assert (answer.status_code, answer.content) == (200, b"weights")


@pytest.fixture
def direct(settings: Settings, bucket_url: str, tenant: Tenant, api_key: str) -> Iterator[TestClient]:
    """The API on a bucket that signs URLs, with the header of the tus protocol."""
    in_bucket = settings.model_copy(update={"storage_url": bucket_url, "signed_urls": True})
    with TestClient(create_app(in_bucket), headers=bearer(api_key) | {"tus-resumable": "1.0.0"}) as client:
        yield client


def begin(direct: TestClient, length: int) -> str:
    answer = direct.post("/uploads", headers={"upload-length": str(length)})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def signed_url(direct: TestClient, upload: str) -> str:
    answer = direct.post(f"{upload}/signed-url")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["url"])


def test_an_archive_is_put_straight_into_the_bucket(
    direct: TestClient, bucket_url: str, sessions: sessionmaker[Session]
) -> None:
    data = os.urandom(10_000)
    upload_url = begin(direct, len(data))
    put = signed_url(direct, upload_url)
    assert direct.get("/usage").json()["usage"]["storage_bytes"] == 10_000
    assert_error(direct.post(f"{upload_url}/dataset"), 409, "upload_unfinished")
    assert httpx.put(put, content=data).status_code == 200
    made = direct.post(f"{upload_url}/dataset")
    assert (made.status_code, made.json()["bytes"], made.json()["status"]) == (202, 10_000, "checking")
    store = ObjectStore(bucket_url)
    with sessions() as session:
        keys = upload_keys(session.get_one(Dataset, made.json()["id"]))
    assert [store.get_bytes(key) for key in keys] == [data]
    assert unnamed(sessions, keys) == []
    assert [file.key for file in store.list("uploads/")] == keys  # where it was put, not copied
    assert direct.get("/usage").json()["usage"]["storage_bytes"] == 10_000
    assert direct.delete(made.headers["location"]).status_code == 204
    assert list(store.list("uploads/")) == []


def test_what_is_put_with_another_size_is_deleted(direct: TestClient, bucket_url: str, sessions: sessionmaker[Session]) -> None:
    upload_url = begin(direct, 10)
    put = signed_url(direct, upload_url)
    assert httpx.put(put, content=b"x" * 11).status_code == 200
    assert_error(direct.post(f"{upload_url}/dataset"), 409, "upload_size_mismatch")
    assert list(ObjectStore(bucket_url).list("uploads/")) == []
    assert httpx.put(put, content=b"x" * 10).status_code == 200
    assert direct.delete(upload_url).status_code == 204
    assert list(ObjectStore(bucket_url).list("uploads/")) == []
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 0


def test_parts_and_a_signed_url_do_not_mix(direct: TestClient, bucket_url: str, sessions: sessionmaker[Session]) -> None:
    upload_url = begin(direct, 10)
    assert httpx.put(signed_url(direct, upload_url), content=b"whole file").status_code == 200
    part = {"content-type": "application/offset+octet-stream", "upload-offset": "0"}
    assert direct.patch(upload_url, content=b"0123456789", headers=part).status_code == 204
    assert_error(direct.post(f"{upload_url}/signed-url"), 409, "offset_mismatch")
    made = direct.post(f"{upload_url}/dataset").json()
    with sessions() as session:
        keys = upload_keys(session.get_one(Dataset, made["id"]))
    store = ObjectStore(bucket_url)
    assert [(file.key, store.get_bytes(file.key)) for file in store.list("uploads/")] == [(keys[0], b"0123456789")]


def test_an_upload_too_large_for_one_request_goes_in_parts(direct: TestClient) -> None:
    assert_error(direct.post(f"{begin(direct, SIGNED_BYTES + 1)}/signed-url"), 413, "upload_too_large")


def test_a_folder_signs_nothing(client: TestClient) -> None:
    client.headers["tus-resumable"] = "1.0.0"
    assert_error(client.post(f"{begin(client, 10)}/signed-url"), 409, "signed_uploads_off")


def picture(sessions: sessionmaker[Session], tenant: Tenant, store: ObjectStore) -> str:
    """The path of an image whose file is in the bucket."""
    store.put_bytes("images/1.png", b"picture")
    generation = Generation(id=new_id("gen"), tenant_id=tenant.id, base_model="emoji-dit", status="succeeded", parameters={})
    image = Image(id=new_id("img"), tenant_id=tenant.id, generation_id=generation.id, position=0, object_key="images/1.png")
    image.width, image.height, image.details = 64, 64, {}
    with sessions.begin() as session:
        session.add(generation)
        session.flush()
        session.add(image)
    return f"/images/{image.id}"


def test_pictures_come_from_the_bucket(
    direct: TestClient, bucket_url: str, sessions: sessionmaker[Session], tenant: Tenant
) -> None:
    answer = direct.get(picture(sessions, tenant, ObjectStore(bucket_url)), follow_redirects=False)
    assert answer.status_code == 307
    assert httpx.get(answer.headers["location"]).content == b"picture"


def test_the_client_goes_straight_to_the_bucket(
    settings: Settings,
    bucket_url: str,
    sessions: sessionmaker[Session],
    tenant: Tenant,
    api_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.api.ONE_REQUEST_BYTES", 1000)
    path, seen = tmp_path / "pets.zip", list[tuple[int, int]]()
    path.write_bytes(os.urandom(600_000))
    in_bucket = settings.model_copy(update={"storage_url": bucket_url, "signed_urls": True})
    with server_in_this_process(in_bucket) as address, Client(address, api_key) as client:
        dataset = client.upload_dataset([path], progress=lambda done, total: seen.append((done, total)))
        assert client.image_bytes(picture(sessions, tenant, ObjectStore(bucket_url))) == b"picture"
    assert (dataset["name"], dataset["bytes"]) == ("pets", 600_000)
    assert seen[-1] == (600_000, 600_000)
    store = ObjectStore(bucket_url)
    assert [store.get_bytes(file.key) for file in store.list("uploads/")] == [path.read_bytes()]
    assert next(store.list("uploads/")).key.endswith("/whole")
