"""ASGI middleware: a POST with an `Idempotency-Key` is carried out once; sent again, it gets the first one's answer.

Routes that create something say so with `created`, in the transaction that does it. Other POST requests leave no trace.
"""

import asyncio
import hashlib
import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Annotated

from fastapi import Depends, Header
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.kit.auth import opened_key
from api.kit.dependencies import Resources
from jobstore.kit import idempotency
from jobstore.kit.idempotency import MAX_BODY, MAX_KEY, RENEW_SECONDS, Claim
from jobstore.kit.tables import IdempotencyKey

logger = logging.getLogger(__name__)

HEADER = "idempotency-key"
REPLAYED = "idempotency-replayed"  # in answers that were given before
PLAIN = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY}}}")
# Their answers hold a secret that is stored nowhere: a repeated request is answered with what GET says of the thing.
SHOWN_ONCE = ("/keys", "/tenants", "/webhooks")
PREFIX_BYTES = 64 * 1024  # of an upload that tell it from another, beside its length
READ_BYTES = 2 * PREFIX_BYTES  # what is left of it without boundaries is that, unless it holds little else
EVENT_STREAM = "text/event-stream"

_claim: ContextVar[Claim | None] = ContextVar("claim", default=None)

IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your own: within 24 hours the same request with the same key is carried out once",
    ),
]


async def _document_header(idempotency_key: IdempotencyHeader = None) -> None:
    """A dependency of routes that create something, so that OpenAPI shows the header."""


Idempotent = Depends(_document_header)


def current_claim() -> Claim | None:
    """The key that the request of this context holds."""
    return _claim.get()


def created(session: Session, location: str) -> None:
    """Note in this transaction what the request creates, and where it is."""
    created_by(session, current_claim(), location)


def created_by(session: Session, claim: Claim | None, location: str) -> None:
    """The same of the request that holds this key, if any; raises InProgressError where another has taken it over."""
    if claim is not None:
        idempotency.created(session, claim, location)


class Idempotency:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" and scope["method"] == "POST" else Headers()
        key = headers.get(HEADER, "")
        resources: Resources | None = scope["app"].state.resources if PLAIN.fullmatch(key) else None
        opened = await opened_key(resources, headers) if resources is not None else None
        if resources is None or opened is None or not opened.allows("write"):
            await self.app(scope, receive, send)
            return
        fingerprint, receive = await _fingerprint(scope, headers, receive)
        found = await resources.turns.run(_begin, resources, opened.tenant_id, key, fingerprint)
        if isinstance(found, Claim):
            await self._first(found, resources, scope, receive, send)
        else:
            await self._again(found, scope, receive, send)

    async def _first(self, claim: Claim, resources: Resources, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry the request out, and store its answer before it is sent. A stream is sent as it comes, and not stored."""

        async def keep(answer: _Answer) -> None:
            secret, large = scope["path"].startswith(SHOWN_ONCE), len(answer.body) > MAX_BODY
            body = None if answer.streams or secret or large else bytes(answer.body)
            await resources.turns.run(_finish, resources, claim, answer.status, answer.media_type, body)

        answer = _Answer(send, keep)
        token = _claim.set(claim)
        try:
            async with _kept_alive(claim, resources):
                await self.app(scope, receive, answer.take)
        finally:
            _claim.reset(token)
            if not answer.streams:
                await keep(answer)
        for message in answer.messages:
            await send(message)

    async def _again(self, row: IdempotencyKey, scope: Scope, receive: Receive, send: Send) -> None:
        """The stored answer; where there is none, what GET says of the thing that was created."""
        headers = {"location": str(row.location), REPLAYED: "true"}
        if row.body is not None:
            answer = Response(row.body, row.status or 200, headers, media_type=row.content_type or None)
            await answer(scope, receive, send)
            return

        async def send_as_created(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["status"] = (row.status or 202) if message["status"] == 200 else message["status"]
                MutableHeaders(scope=message).update(headers)
            await send(message)

        looking = {"method": "GET", "path": row.location, "raw_path": str(row.location).encode(), "query_string": b""}
        await self.app({**scope, **looking}, receive, send_as_created)


async def _fingerprint(scope: Scope, headers: Headers, receive: Receive) -> tuple[str, Receive]:
    """What tells this request from another, and a `receive` that gives the body from its beginning.

    A JSON body counts as a whole: `BodyLimits` hands it on in one piece. Of an upload its length and its first bytes count,
    without the boundary, which is another each time.
    """
    boundary = headers.get("content-type", "").partition("boundary=")[2].strip('"').encode() or b"\0none\0"
    read, seen = deque[Message](), bytearray()
    more = "content-length" in headers or "transfer-encoding" in headers
    while more and len(seen) < READ_BYTES:
        message = await receive()
        read.append(message)
        seen += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    counted = seen[:READ_BYTES].replace(boundary, b"")[:PREFIX_BYTES] if more or boundary in seen else seen
    request = f"{scope['path']}?{scope['query_string'].decode('latin-1')} {headers.get('content-length')}"
    digest = hashlib.sha256(request.encode() + b"\0" + counted).hexdigest()

    async def from_the_beginning() -> Message:
        return read.popleft() if read else await receive()

    return digest, from_the_beginning


@asynccontextmanager
async def _kept_alive(claim: Claim, resources: Resources) -> AsyncIterator[None]:
    """The claim is renewed while this is open: an upload takes as long as it takes."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await resources.turns.run(_renew, resources, claim)
            except SQLAlchemyError as error:
                logger.warning("An Idempotency-Key could not be renewed: %s", error)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing


class _Answer:
    """The messages of an answer, held back until it is kept. Of a stream that is before its first event."""

    def __init__(self, send: Send, keep: Callable[["_Answer"], Awaitable[None]]) -> None:
        self.messages: list[Message] = []
        self.status, self.media_type = 500, ""
        self.body = bytearray()
        self._send, self._keep = send, keep

    @property
    def streams(self) -> bool:
        return self.media_type.startswith(EVENT_STREAM)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.media_type = message["status"], Headers(raw=message["headers"]).get("content-type", "")
            if self.streams:
                await self._keep(self)
        if self.streams:
            await self._send(message)
            return
        self.messages.append(message)
        self.body += message.get("body", b"")


def _begin(resources: Resources, tenant: str, key: str, fingerprint: str) -> Claim | IdempotencyKey:
    with resources.sessions.begin() as session:
        return idempotency.begin(session, tenant, key, fingerprint)


def _renew(resources: Resources, claim: Claim) -> None:
    with resources.sessions.begin() as session:
        idempotency.renew(session, claim)


def _finish(resources: Resources, claim: Claim, status: int, content_type: str, body: bytes | None) -> None:
    with resources.sessions.begin() as session:
        idempotency.finish(session, claim, status, content_type, body)
