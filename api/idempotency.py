"""ASGI middleware: a POST with an `Idempotency-Key` is carried out once; sent again, it gets the first one's answer.

Routes that create something say so with `created`, in the transaction that does it. Other POST requests leave no trace.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Annotated

from fastapi import Depends, Header
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.dependencies import Resources
from api.errors import respond
from jobstore import idempotency
from jobstore.errors import ConflictError
from jobstore.idempotency import MAX_BODY, MAX_KEY, RENEW_SECONDS, Claim
from jobstore.tables import IdempotencyKey

logger = logging.getLogger(__name__)

HEADER = "idempotency-key"
REPLAYED = "idempotency-replayed"  # in answers that were given before
PLAIN = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY}}}")
# Their answers hold a secret that is stored nowhere: a repeated request is answered with what GET says of the thing.
SHOWN_ONCE = ("/keys", "/tenants", "/webhooks")
PREFIX_BYTES = 64 * 1024  # of an upload that tell it from another, beside its length
LONGEST_BOUNDARY = 70  # characters, by RFC 2046

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
        tenant = await _tenant(resources, headers) if resources is not None else None
        if resources is None or tenant is None:
            await self.app(scope, receive, send)
            return
        fingerprint, receive = await _fingerprint(scope, headers, receive)
        try:
            found = await resources.turns.run(_begin, resources, tenant, key, fingerprint)
        except ConflictError as error:
            await respond(scope, error)(scope, receive, send)
            return
        if isinstance(found, Claim):
            await self._first(found, resources, scope, receive, send)
        else:
            await self._again(found, scope, receive, send)

    async def _first(self, claim: Claim, resources: Resources, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry the request out, and store its answer before it is sent."""
        answer = _Answer()
        token = _claim.set(claim)
        try:
            async with _kept_alive(claim, resources):
                await self.app(scope, receive, answer.take)
        finally:
            _claim.reset(token)
            body = None if scope["path"].startswith(SHOWN_ONCE) or len(answer.body) > MAX_BODY else bytes(answer.body)
            await resources.turns.run(_finish, resources, claim, answer.status, answer.headers.get("content-type", ""), body)
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
        await self.app({**scope, **looking}, _no_body, send_as_created)


async def _tenant(resources: Resources, headers: Headers) -> str | None:
    """The tenant of a key that may create things; the route itself refuses any other."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    opened = await resources.keyring.open(key.strip()) if scheme.lower() == "bearer" else None
    return opened.tenant_id if opened is not None and opened.state == "valid" and opened.allows("write") else None


async def _fingerprint(scope: Scope, headers: Headers, receive: Receive) -> tuple[str, Receive]:
    """What tells this request from another, and a `receive` that gives the body from its beginning.

    A JSON body counts as a whole: `BodyLimits` hands it on in one piece. Of an upload its length and its first bytes count,
    without the boundary, which is another each time.
    """
    boundary = headers.get("content-type", "").partition("boundary=")[2].strip('"').encode() or b"\0none\0"
    read: list[Message] = []
    seen, more = b"", "content-length" in headers or "transfer-encoding" in headers
    while more and len(seen.replace(boundary, b"")) < PREFIX_BYTES + LONGEST_BOUNDARY:
        message = await receive()
        read.append(message)
        seen += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    counted = seen.replace(boundary, b"")[:PREFIX_BYTES] if more or boundary in seen else seen
    request = f"{scope['path']}?{scope['query_string'].decode('latin-1')} {headers.get('content-length')}"
    digest = hashlib.sha256(request.encode() + b"\0" + counted).hexdigest()

    async def from_the_beginning() -> Message:
        return read.pop(0) if read else await receive()

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
    """The messages of an answer, held back."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.status = 500
        self.headers = Headers()
        self.body = bytearray()

    async def take(self, message: Message) -> None:
        self.messages.append(message)
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], Headers(raw=message["headers"])
        self.body += message.get("body", b"")


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _begin(resources: Resources, tenant: str, key: str, fingerprint: str) -> Claim | IdempotencyKey:
    with resources.sessions.begin() as session:
        return idempotency.begin(session, tenant, key, fingerprint)


def _renew(resources: Resources, claim: Claim) -> None:
    with resources.sessions.begin() as session:
        idempotency.renew(session, claim)


def _finish(resources: Resources, claim: Claim, status: int, content_type: str, body: bytes | None) -> None:
    with resources.sessions.begin() as session:
        idempotency.finish(session, claim, status, content_type, body)
