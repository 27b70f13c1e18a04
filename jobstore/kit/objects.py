"""The object store: files under keys such as `datasets/ds_…/upload`, in a local folder or a bucket, always streamed."""

import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store, from_url

from jobstore.kit.errors import StorageError

if TYPE_CHECKING:
    from obstore.store import RetryConfig

CHUNK_BYTES = 5 * 1024**2  # the smallest part that S3 takes
SIGNED_FOR = timedelta(minutes=15)
RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}  # a request must not hang for minutes
UNFINISHED = re.compile(r"#\d+$")  # no key ends so
PARTS_IN_FLIGHT = 2  # an upload holds so many chunks in memory, however large it is


def job_prefix(job_id: str) -> str:
    """Where everything of a job but its adapter lies."""
    return f"jobs/{job_id}/"


def job_logs_prefix(job_id: str) -> str:
    """Where the workers keep what a job's trainers printed: one file an attempt, whose names sort by time."""
    return f"{job_prefix(job_id)}logs/"


def evaluation_prefix(evaluation_id: str) -> str:
    """Where what was measured of an evaluation's pictures lies until it has ended."""
    return f"evaluations/{evaluation_id}/"


def references_prefix(dataset_sha256: str) -> str:
    """Where the features of the held-out pictures of a dataset's content lie, which all datasets of that content share."""
    return f"references/{dataset_sha256}/"


@dataclass(frozen=True)
class StoredFile:
    """What a listing tells of a file."""

    key: str
    bytes: int
    modified_at: datetime


class ObjectStore:
    """Files under keys. A file appears whole or not at all.

    Every failure is a StorageError: `object_missing` for a key that is not there, else `storage_error`, which may pass.
    """

    def __init__(self, url: str, signed: bool = False) -> None:
        """`url` is file:///a/folder (made where it is missing) or s3://bucket/prefix, with the keys to it in AWS_… variables.

        A bucket `signs` URLs where it is `signed`; a folder cannot.
        """
        self._store = from_url(url, mkdir=True) if url.startswith("file:") else from_url(url, retry_config=RETRIES)
        self.signs = signed and isinstance(self._store, S3Store)

    def put_file(self, key: str, path: Path) -> None:
        with _failures(key):
            obstore.put(self._store, key, path, chunk_size=CHUNK_BYTES, max_concurrency=PARTS_IN_FLIGHT)

    def put_bytes(self, key: str, data: bytes) -> None:
        with _failures(key):
            obstore.put(self._store, key, data)

    async def put_stream(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store what the iterator gives, in constant memory; returns the bytes written. If it raises, nothing is stored."""
        written = 0
        try:
            async with obstore.open_writer_async(
                self._store, key, buffer_size=CHUNK_BYTES, max_concurrency=PARTS_IN_FLIGHT
            ) as writer:
                async for chunk in chunks:
                    await writer.write(chunk)
                    written += len(chunk)
        except BaseError as error:
            raise StorageError(f"The object store cannot be used ({key}): {error}") from error
        return written

    def get_bytes(self, key: str) -> bytes:
        with _failures(key):
            return bytes(obstore.get(self._store, key).bytes())

    def stream(self, key: str) -> Iterator[bytes]:
        """The file in chunks of a few megabytes. A missing key raises here, not at the first chunk."""
        with _failures(key):
            found = obstore.get(self._store, key)
        return _chunks(key, found.stream(min_chunk_size=CHUNK_BYTES))

    async def open(self, key: str) -> tuple[int, AsyncIterator[bytes]]:
        """How many bytes the file has, and these in chunks, without a thread that waits for them. A missing key raises here."""
        with _failures(key):
            found = await obstore.get_async(self._store, key)
        return found.meta["size"], _chunks_as_they_come(key, found.stream(min_chunk_size=CHUNK_BYTES))

    def get_to_file(self, key: str, path: Path) -> None:
        self.get_joined([key], path)

    def get_joined(self, keys: Iterable[str], path: Path) -> None:
        """The files one behind the other; nothing where one of them cannot be had."""
        try:
            with path.open("wb") as file:
                for key in keys:
                    file.writelines(self.stream(key))
        except StorageError:
            path.unlink()
            raise

    def signed_url(self, key: str, method: Literal["GET", "PUT"] = "GET") -> str | None:
        """A URL under which anybody can get, or put, the file for some minutes; None where the store gives none."""
        if not self.signs or not isinstance(self._store, S3Store):
            return None
        with _failures(key):
            return obstore.sign(self._store, method, key, SIGNED_FOR)

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """Of the file in bytes; None where there is none."""
        try:
            with _failures(key):
                return obstore.head(self._store, key)["size"]
        except StorageError as error:
            if error.code != "object_missing":
                raise
            return None

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        try:
            with _failures(key):
                obstore.delete(self._store, key)
        except StorageError as error:
            if error.code != "object_missing":
                raise

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """The files whose keys begin with the prefix, which ends with a slash; in no order, some thousand in memory at once."""
        with _failures(prefix):
            for found in obstore.list(self._store, prefix):
                yield from (StoredFile(item["path"], item["size"], item["last_modified"]) for item in found)

    def delete_unfinished(self, prefix: str, before: datetime) -> int:
        """Delete what puts that were killed left under the prefix and wrote to last before then; returns how many files.

        A folder keeps a file beside its place (`key#1`) until it is whole. A bucket has a rule of its own for such parts.
        """
        if not isinstance(self._store, LocalStore) or self._store.prefix is None:
            return 0
        deleted = 0
        for path in (Path(self._store.prefix) / prefix).rglob("*#*"):
            with suppress(FileNotFoundError):  # it has just become whole
                if UNFINISHED.search(path.name) and path.stat().st_mtime < before.timestamp():
                    path.unlink()
                    deleted += 1
        return deleted


def _chunks(key: str, stream: Iterable[Any]) -> Iterator[bytes]:
    with _failures(key):
        for chunk in stream:
            yield bytes(chunk)


async def _chunks_as_they_come(key: str, stream: AsyncIterable[Any]) -> AsyncIterator[bytes]:
    with _failures(key):
        async for chunk in stream:
            yield bytes(chunk)


@contextmanager
def _failures(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"The object store has no file {key!r}.", code="object_missing") from error
    except (BaseError, OSError) as error:
        raise StorageError(f"The object store cannot be used ({key}): {error}") from error
