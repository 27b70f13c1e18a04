"""ASGI middleware: bodies that are too large or nested too deeply are refused before anything parses them."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import BadRequestError, TooLargeError, respond
from difffit_core.errors import DiffFitError

MAX_NESTING = 64  # no request of ours needs more than 4; Python's parsers recurse and fail somewhere below 1000
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
BRACKET = re.compile(rb"[\[{\]}]")


class BodyLimits:
    """Reads a body up to `max_bytes`, checks it and hands it on. `streamed` routes read, and limit, theirs themselves."""

    def __init__(self, app: ASGIApp, max_bytes: int, streamed: re.Pattern[str]) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        has_body = "content-length" in headers or "transfer-encoding" in headers
        if not has_body or self.streamed.fullmatch(f"{scope['method']} {scope['path']}"):
            await self.app(scope, receive, send)
            return
        body = await self._read(headers, receive)
        if isinstance(body, DiffFitError):
            await respond(scope, body)(scope, receive, send)
        elif body is not None:
            await self.app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | DiffFitError | None:
        """The whole body, what is wrong with it, or None where the client went away."""
        too_large = TooLargeError(
            f"The body is larger than {self.max_bytes} bytes. Files are uploaded by POST /datasets.", code="body_too_large"
        )
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            return too_large
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_bytes:
                return too_large
        if nested_deeper_than(MAX_NESTING, body):
            return BadRequestError(f"The JSON is nested more than {MAX_NESTING} levels deep.", code="json_too_deep")
        return bytes(body)


def nested_deeper_than(limit: int, body: bytes | bytearray) -> bool:
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    depth = 0
    for bracket in BRACKET.finditer(STRING.sub(b"", body)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > limit:
            return True
    return False


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read already, then whatever the connection gives."""
    unread = True

    async def replaying() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replaying
