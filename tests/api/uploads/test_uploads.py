"""Resumable uploads: cut, resumed, checked, limited, expired, and made into datasets with just the bytes that were sent."""

import base64
import hashlib
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.errors import ConflictError
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Dataset, Tenant, Upload
from jobstore.uploads import service as uploads
from tests.api.conftest import Server
from tests.api.datasets.test_datasets import stored_files
from tests.api.jobs.test_streams import server_in_this_process
from tests.api.kit.test_errors import assert_error
from tests.api.tenants.test_quotas import assert_limited, limit
from tests.waiting import wait_for
from worker.kit.garbage import unnamed

BYTES = {"content-type": "application/offset+octet-stream"}


@pytest.fixture
def tus(client: TestClient) -> TestClient:
    client.headers["tus-resumable"] = "1.0.0"
    return client


def begin(tus: TestClient, length: int, **headers: str) -> str:
    answer = tus.post("/uploads", headers={"upload-length": str(length)} | headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    return str(answer.headers["location"])


def send(tus: TestClient, url: str, offset: int, data: bytes, **headers: str) -> Any:
    return tus.patch(url, content=data, headers=BYTES | {"upload-offset": str(offset)} | headers)


def sha256(data: bytes) -> str:
    return f"sha256 {base64.b64encode(hashlib.sha256(data).digest()).decode()}"


def test_parts_become_a_dataset_with_their_bytes(
    tus: TestClient, sessions: sessionmaker[Session], store: ObjectStore, tmp_path: Path
) -> None:
    data = os.urandom(1000)
    names = "filename " + base64.b64encode(b"my pets.tar.gz").decode()
    url = begin(tus, 1000, **{"upload-metadata": names})
    assert_error(tus.post(f"{url}/dataset"), 409, "upload_unfinished")
    for begins, ends in ((0, 100), (100, 999), (999, 1000)):
        answer = send(tus, url, begins, data[begins:ends], **{"upload-checksum": sha256(data[begins:ends])})
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(ends))
        looked = tus.head(url)
        assert (looked.headers["upload-offset"], looked.headers["upload-length"]) == (str(ends), "1000")
        assert looked.headers["cache-control"] == "no-store"
    assert tus.get("/usage").json()["usage"]["storage_bytes"] == 1000
    made = tus.post(f"{url}/dataset")
    assert made.status_code == 202, made.text
    assert (made.json()["name"], made.json()["bytes"], made.json()["status"]) == ("my pets", 1000, "checking")
    assert made.headers["location"] == f"/datasets/{made.json()['id']}"
    assert tus.head(url).status_code == 404
    again = tus.post(f"{url}/dataset")
    assert (again.status_code, again.json(), again.headers["location"]) == (202, made.json(), made.headers["location"])
    assert tus.get("/usage").json()["usage"]["storage_bytes"] == 1000
    with sessions() as session:
        dataset = session.get_one(Dataset, made.json()["id"])
        keys = uploads.upload_keys(dataset)
    assert dataset.upload_name == "my pets.tar.gz"
    store.get_joined(keys, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == data
    assert unnamed(sessions, keys) == []
    assert tus.delete(made.headers["location"]).status_code == 204
    assert_error(tus.post(f"{url}/dataset"), 404, "upload_not_found")
    assert stored_files(tmp_path) == []


def test_a_finished_upload_may_name_its_format(tus: TestClient) -> None:
    url = begin(tus, 2)
    send(tus, url, 0, b"PK")
    assert assert_error(tus.post(f"{url}/dataset?format=imagenet"), 422, "unknown_format")["param"] == "format"
    made = tus.post(f"{url}/dataset?format=cub-200-2011")
    assert (made.status_code, made.json()["format"]) == (202, "cub-200-2011")


def test_wrong_requests_change_nothing(tus: TestClient, tmp_path: Path) -> None:
    url = begin(tus, 10)
    assert_error(send(tus, url, 5, b"12345"), 409, "offset_mismatch")
    assert_error(send(tus, url, 0, b"12345678901"), 413, "upload_too_large")
    assert_error(send(tus, url, 0, b"12345", **{"upload-checksum": sha256(b"12346")}), 460, "checksum_mismatch")
    assert_error(send(tus, url, 0, b"12345", **{"upload-checksum": "crc32 AAAA"}), 400, "invalid_header")
    assert_error(tus.patch(url, content=b"12345", headers={"upload-offset": "0"}), 415)
    assert_error(tus.patch(url, content=b"12345", headers=BYTES), 400, "invalid_header")
    assert_error(tus.post("/uploads"), 400, "invalid_header")
    assert_error(tus.post("/uploads", headers={"upload-length": "-1"}), 400, "invalid_header")
    assert_error(tus.post("/uploads", headers={"upload-length": "9", "upload-metadata": "name !"}), 400)
    assert_error(tus.post("/uploads", headers={"upload-length": str(10**15)}), 413, "upload_too_large")
    refused = tus.head(url, headers={"tus-resumable": "0.2.2"})
    assert (refused.status_code, refused.headers["tus-version"]) == (412, "1.0.0")
    assert tus.head(url).headers["upload-offset"] == "0"
    assert stored_files(tmp_path) == []
    offers = tus.options("/uploads").headers
    assert offers["tus-extension"] == "creation,expiration,checksum,termination"
    assert "sha256" in offers["tus-checksum-algorithm"]


def test_what_arrived_before_a_cut_is_kept(server: Server, sessions: sessionmaker[Session], tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    version = {"tus-resumable": "1.0.0"}
    with server.client() as client:
        url = client.post("/uploads", headers=version | {"upload-length": str(len(data))}).headers["location"]
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            headers = server.headers | version | BYTES | {"upload-offset": "0", "content-length": str(len(data)), "host": "x"}
            head = f"PATCH {url} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(head.encode() + b"\r\n" + data[:2_000_000])
        offset = int(wait_for(lambda: (o := client.head(url, headers=version).headers["upload-offset"]) != "0" and o))
        assert 0 < offset <= 2_000_000
        answer = client.patch(url, content=data[offset:], headers=version | BYTES | {"upload-offset": str(offset)})
        assert answer.headers["upload-offset"] == str(len(data))
        made = client.post(f"{url}/dataset", headers=version).json()
    with sessions() as session:
        keys = uploads.upload_keys(session.get_one(Dataset, made["id"]))
    ObjectStore((tmp_path / "files").as_uri()).get_joined(keys, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == data


def test_a_long_request_is_kept_in_parts(
    tus: TestClient, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a crash of the server costs little."""
    monkeypatch.setattr("api.uploads.routes.PART_BYTES", 100_000)
    url = begin(tus, 1_000_000)
    with server_in_this_process(settings) as address, httpx.Client(base_url=address, headers=dict(tus.headers)) as http:
        answer = http.patch(url, content=iter([b"x" * 50_000] * 20), headers=BYTES | {"upload-offset": "0"})
    assert answer.headers["upload-offset"] == "1000000"
    sizes = [path.stat().st_size for path in stored_files(tmp_path)]
    assert sum(sizes) == 1_000_000
    assert len(sizes) >= 4


def test_of_two_that_go_on_at_one_offset_one_counts(
    tus: TestClient, sessions: sessionmaker[Session], store: ObjectStore, tenant: Tenant
) -> None:
    url = begin(tus, 10)
    upload_id = url.rpartition("/")[2]
    assert send(tus, url, 0, b"first").status_code == 204
    with sessions() as session, pytest.raises(ConflictError):
        uploads.advance(session, upload_id, 0, "late", 4)
    store.put_bytes(f"uploads/{upload_id}/late", b"late")
    assert send(tus, url, 5, b"-last").status_code == 204
    with sessions.begin() as session:
        dataset = uploads.make_dataset(session, session.get_one(Upload, upload_id))
        assert [store.get_bytes(key) for key in uploads.upload_keys(dataset)] == [b"first", b"-last"]


def test_the_length_counts_from_the_beginning(tus: TestClient, tenant: Tenant) -> None:
    limit(tus, tenant, storage_bytes=1000)
    url = begin(tus, 900)
    assert_limited(tus.post("/uploads", headers={"upload-length": "101"}), "storage_full", "storage_bytes")
    assert tus.delete(url).status_code == 204
    begin(tus, 1000)


def test_an_upload_that_nobody_continues_is_forgotten(
    tus: TestClient, sessions: sessionmaker[Session], store: ObjectStore
) -> None:
    old, young = begin(tus, 10), begin(tus, 10)
    for url in (old, young):
        send(tus, url, 0, b"12345")
    keys = [file.key for file in store.list("uploads/")]
    assert unnamed(sessions, keys) == []
    with sessions.begin() as session:
        mine = update(Upload).where(Upload.id == old.rpartition("/")[2])
        session.execute(mine.values(expires_at=func.now() - timedelta(seconds=1)))
        uploads.forget_expired(session)
        assert session.scalar(select(func.count()).select_from(Upload)) == 1
    assert tus.head(old).status_code == 404
    assert unnamed(sessions, keys) == [key for key in keys if old.rpartition("/")[2] in key]


def test_the_same_request_begins_one_upload(tus: TestClient) -> None:
    headers = {"idempotency-key": "of-this-file"}
    assert begin(tus, 10, **headers) == begin(tus, 10, **headers) != begin(tus, 10)
