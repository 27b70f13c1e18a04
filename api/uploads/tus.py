"""What the tus protocol (1.0.0, tus.io) says in headers: lengths, metadata, checksums; and the header of every answer."""

import base64
import binascii
import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Header
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.kit.errors import BadRequestError, ChecksumError, PreconditionError

VERSION = "1.0.0"
EXTENSIONS = "creation,expiration,checksum,termination"
ALGORITHMS = ("sha1", "sha256")  # sha1 because the protocol demands it
MAX_METADATA = 4096  # characters
MAX_NAME = 200  # characters
DIGITS = 16  # of a number of bytes


class TusHeaders:
    """ASGI middleware: every answer under /uploads, errors too, names the protocol's version."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/uploads"):
            await self.app(scope, receive, send)
            return

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["tus-resumable"] = headers["tus-version"] = VERSION
            await send(message)

        await self.app(scope, receive, send_with_version)


async def require_version(tus_resumable: Annotated[str, Header(description="`1.0.0`")] = "") -> None:
    if tus_resumable != VERSION:
        raise PreconditionError(f"Send the header `Tus-Resumable: {VERSION}`; this server speaks no other version.")


async def announced_length(upload_length: Annotated[str, Header(description="Bytes of the whole upload")] = "") -> int:
    return _number(upload_length, "Upload-Length")


async def announced_offset(upload_offset: Annotated[str, Header(description="Where this part begins")] = "") -> int:
    return _number(upload_offset, "Upload-Offset")


def _number(text: str, header: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > DIGITS:
        raise BadRequestError(f"Send `{header}` with a number of bytes.", code="invalid_header", param=header)
    return int(text)


Version = Depends(require_version)
Length = Annotated[int, Depends(announced_length)]
Offset = Annotated[int, Depends(announced_offset)]
Metadata = Annotated[
    str,
    Header(
        alias="Upload-Metadata", max_length=MAX_METADATA, description="`filename` and `name`, each with its value in base64"
    ),
]


def read_metadata(text: str) -> dict[str, str]:
    """`filename d29ybGQ=,name Y2F0cw==` as a dictionary. Raises BadRequestError."""
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = pair.partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise BadRequestError(
                f"The value of {key!r} in `Upload-Metadata` is not UTF-8 text in base64.",
                code="invalid_header",
                param="Upload-Metadata",
            ) from error
    return found


class Checksum:
    """What `Upload-Checksum: sha256 <base64>` asks for. Raises BadRequestError."""

    def __init__(self, header: str) -> None:
        self.algorithm, _, value = header.partition(" ")
        if self.algorithm not in ALGORITHMS:
            raise BadRequestError(
                f"`Upload-Checksum` must begin with one of {', '.join(ALGORITHMS)}.",
                code="invalid_header",
                param="Upload-Checksum",
            )
        try:
            self._expected = base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise BadRequestError(
                "The value in `Upload-Checksum` is not base64.", code="invalid_header", param="Upload-Checksum"
            ) from error
        self._seen = hashlib.new(self.algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._seen.update(data)

    def check(self) -> None:
        """Raises ChecksumError."""
        if not hmac.compare_digest(self._seen.digest(), self._expected):
            raise ChecksumError("What arrived is not what the checksum says; nothing of it was kept. Send this part again.")
