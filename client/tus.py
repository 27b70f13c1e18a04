"""A large file sent in parts by the tus protocol, so that a cut costs one part and not the whole."""

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import httpx

from client.errors import ApiError, ConfigError, UnreachableError
from client.upload import ProgressCallback, read_exactly

PART_BYTES = 16 * 1024**2  # sent, and checked, at once; so much is in memory

WHOLE_TIMEOUT = httpx.Timeout(300.0, connect=10.0)  # seconds

Send = Callable[..., httpx.Response]  # the client's way of sending a request, which raises for a refusal


class ResumableUpload:
    """One file on its way to the server. The same file goes on in another process too, for as long as the server keeps it."""

    VERSION: ClassVar[dict[str, str]] = {"tus-resumable": "1.0.0"}
    PASSING: ClassVar[frozenset[str]] = frozenset({"offset_mismatch", "checksum_mismatch", "client_disconnected"})

    def __init__(self, path: Path, name: str | None) -> None:
        stat = path.stat()
        self.length = stat.st_size
        self._path = path
        self._metadata = ",".join(f"{key} {_base64(value.encode())}" for key, value in _names(path, name).items())
        # The server answers the same request with the same upload; a file that was changed is another one.
        self._key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {name}".encode()).hexdigest()

    def begin(self, send: Send) -> str:
        """The upload's path on the server: a new one, or one that this file began earlier."""
        url = self._begin(send, self._key)
        try:
            self.ask(send, url)
        except ApiError as error:
            if error.status != 404:
                raise
            url = self._begin(send, secrets.token_hex(16))  # that one has become a dataset, or was given up
        return url

    def _begin(self, send: Send, key: str) -> str:
        headers = {"upload-length": str(self.length), "upload-metadata": self._metadata, "idempotency-key": key}
        return str(send("POST", "/uploads", headers=self.VERSION | headers).headers["location"])

    def put_whole(self, send: Send, url: str, progress: ProgressCallback) -> bool:
        """Put the file straight into the server's bucket; False where it offers none or that does not work: then send parts."""
        try:
            target = send("POST", f"{url}/signed-url", headers=self.VERSION).json()["url"]
            headers = {"content-length": str(self.length)}
            return httpx.put(target, content=self._all(progress), headers=headers, timeout=WHOLE_TIMEOUT).is_success
        except (ApiError, UnreachableError, httpx.TransportError):
            return False

    def _all(self, progress: ProgressCallback) -> Iterator[bytes]:
        sent = 0
        for chunk in read_exactly(self._path, self.length):
            yield chunk
            sent += len(chunk)
            progress(sent, self.length)

    def ask(self, send: Send, url: str) -> int:
        """How many bytes the server has."""
        return int(send("GET", url, headers=self.VERSION).headers["upload-offset"])

    def send_part(self, send: Send, url: str, offset: int) -> int:
        """Send the next bytes; how many the server has then."""
        with self._path.open("rb") as file:
            file.seek(offset)
            part = file.read(min(PART_BYTES, self.length - offset))
        if not part:
            raise ConfigError(f"{self._path} became shorter while it was sent. Upload it again.", param="path")
        headers = {"upload-offset": str(offset), "content-type": "application/offset+octet-stream"}
        headers |= {"upload-checksum": f"sha256 {_base64(hashlib.sha256(part).digest())}"}
        return int(send("PATCH", url, content=part, headers=self.VERSION | headers).headers["upload-offset"])


def _names(path: Path, name: str | None) -> dict[str, str]:
    return {"filename": path.name} if name is None else {"filename": path.name, "name": name}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
