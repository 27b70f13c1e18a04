"""The object store keeps bytes exactly, streams what is large, and stores nothing of an upload that breaks off."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jobstore.kit.errors import StorageError
from jobstore.kit.objects import ObjectStore

MEBIBYTE = 1024**2


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Every test runs on both kinds of store."""
    if request.param == "folder":
        return ObjectStore((tmp_path / "a folder" / "files").as_uri())
    url: str = request.getfixturevalue("bucket_url")
    return ObjectStore(url)


async def chunks(count: int, chunk: bytes, fails: bool = False) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield chunk
    if fails:
        raise ConnectionError("the client went away")


def test_what_is_put_is_got(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(11 * MEBIBYTE)
    (tmp_path / "source").write_bytes(data)
    store.put_file("datasets/ds_1/upload", tmp_path / "source")
    store.put_bytes("images/img_1.png", b"picture")
    assert b"".join(store.stream("datasets/ds_1/upload")) == data
    store.get_to_file("datasets/ds_1/upload", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert store.get_bytes("images/img_1.png") == b"picture"
    store.put_bytes("images/img_1.png", b"another")
    assert store.get_bytes("images/img_1.png") == b"another"


def test_a_large_upload_is_streamed_in_little_memory(store: ObjectStore) -> None:
    chunk = os.urandom(MEBIBYTE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert asyncio.run(store.put_stream("datasets/ds_1/upload", chunks(128, chunk))) == 128 * MEBIBYTE
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 48 * MEBIBYTE
    assert sum(len(part) for part in store.stream("datasets/ds_1/upload")) == 128 * MEBIBYTE


def test_an_empty_stream_is_an_empty_file(store: ObjectStore) -> None:
    assert asyncio.run(store.put_stream("empty", chunks(0, b""))) == 0
    assert store.get_bytes("empty") == b""


def test_an_upload_that_breaks_off_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(store.put_stream("datasets/ds_1/upload", chunks(12, os.urandom(MEBIBYTE), fails=True)))
    assert not store.exists("datasets/ds_1/upload")
    assert list(store.list("datasets/")) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_missing_file_is_named(store: ObjectStore, tmp_path: Path) -> None:
    assert not store.exists("images/none.png")
    store.delete("images/none.png")
    for get in (store.get_bytes, store.stream, lambda key: store.get_to_file(key, tmp_path / "x")):
        with pytest.raises(StorageError, match=r"images/none\.png") as missing:
            get("images/none.png")
        assert missing.value.code == "object_missing"
    assert not (tmp_path / "x").exists()


def test_a_deleted_file_is_gone(store: ObjectStore) -> None:
    store.put_bytes("a/b", b"x")
    assert store.exists("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


def test_a_bucket_signs_urls_where_it_is_asked_to(bucket_url: str, tmp_path: Path) -> None:
    store = ObjectStore(bucket_url, signed=True)
    store.put_bytes("adapters/ad_1/adapter.safetensors", b"weights")
    url = store.signed_url("adapters/ad_1/adapter.safetensors")
    assert url is not None
    assert httpx.get(url).content == b"weights"
    assert ObjectStore(bucket_url).signed_url("adapters/ad_1/adapter.safetensors") is None
    assert ObjectStore(tmp_path.as_uri(), signed=True).signed_url("adapters/ad_1/adapter.safetensors") is None


def test_a_bucket_that_is_away_is_an_error_of_ours(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("jobstore.kit.objects.RETRIES", {"max_retries": 0})
    store = ObjectStore(bucket_url)
    for use in (
        lambda: store.get_bytes("a"),
        lambda: store.put_bytes("a", b""),
        lambda: asyncio.run(store.put_stream("a", chunks(9, bytes(MEBIBYTE)))),
    ):
        with pytest.raises(StorageError) as away:
            use()
        assert away.value.code == "storage_error"
