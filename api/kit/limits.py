"""ASGI middleware: no body holds a request for ever, or the event loop for more than some milliseconds.

What a client without a key sends is not read at all. Of the others a body that is too large, too deep or of too many values is
refused before anything parses it.
"""

import asyncio
import re
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.kit.auth import opened_key
from api.kit.errors import BadRequestError, RequestTimeoutError, TooLargeError

MAX_NESTING = 64  # no request of ours needs more than 10; Python's parsers recurse and fail somewhere below 1000
MAX_VALUES = 5_000  # the most that ours need are some thousand, in the messages of conversations
MAX_QUOTES = 4 * MAX_VALUES  # each value may be a string under a key
DEPTH_BYTES = 4096  # of JSON that is refused for its values: enough to say where it is too deep, too
LARGE_BYTES = 64 * 1024  # below it a body is parsed within a millisecond
PROGRESS_BYTES = 64 * 1024  # of an upload
BRACKET = re.compile(rb"[\[{\]}]")


class BodyLimits:
    """Reads a body, checks it and hands it on. `streamed` routes read theirs themselves, and limit its size."""

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, streamed: re.Pattern[str]) -> None:
        """`seconds`: how long a client may take over a body, or over each `PROGRESS_BYTES` of a streamed one."""
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.streamed = streamed
        self.pace = Pace()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        if self.streamed.fullmatch(f"{scope['method']} {scope['path']}"):
            await self.app(scope, within(self.seconds, PROGRESS_BYTES, receive), send)
            return
        opened = await opened_key(scope["app"].state.resources, headers)
        body = b"" if opened is None else await self._read(headers, within(self.seconds, None, receive))
        if body is not None:
            await self.app(scope, self._replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body, or None where the client went away."""
        announced = headers.get("content-length", "").lstrip("0")[: len(str(2**64))]
        if announced.isdecimal() and int(announced) > self.max_bytes:
            raise self._too_large()
        chunks, size, more = list[bytes](), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > self.max_bytes:
                raise self._too_large()
        body = b"".join(chunks)
        if "json" in headers.get("content-type", "").lower():
            await self._check(body)
        return body

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"The body is larger than {self.max_bytes} bytes. Files are uploaded by POST /datasets.", code="body_too_large"
        )

    async def _check(self, body: bytes) -> None:
        if len(body) > LARGE_BYTES:
            await self.pace.wait()
        check_json(body)

    def _replay(self, body: bytes, receive: Receive) -> Receive:
        """A `receive` that gives the body that was read already, then whatever the connection gives."""
        unread = True

        async def replaying() -> Message:
            nonlocal unread
            if unread:
                unread = False
                if len(body) > LARGE_BYTES:
                    await self.pace.wait()  # it is parsed at once
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        return replaying


class Pace:
    """Lets one waiter go on in each round of the event loop: whatever many do at the same time, others come between."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def wait(self) -> None:
        await self._lock.acquire()
        asyncio.get_running_loop().call_soon(self._lock.release)


def within(seconds: float, progress: int | None, receive: Receive) -> Receive:
    """A `receive` that waits so long for a whole body, or for each `progress` bytes of it; then it raises RequestTimeoutError.

    What happens between two calls does not count, nor waiting after the body: for the client to go away.
    """
    left, got, ended = seconds, 0, False
    clock: Callable[[], float] = asyncio.get_running_loop().time

    async def receiving() -> Message:
        nonlocal left, got, ended
        if ended:
            return await receive()
        began = clock()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError:
            raise RequestTimeoutError(f"The body did not arrive within {seconds:g} s. Send the request again.") from None
        got += len(message.get("body", b""))
        left -= clock() - began
        if progress is not None and got >= progress:
            left, got = seconds, 0
        ended = not message.get("more_body", False)
        return message

    return receiving


def check_json(body: bytes) -> None:
    """Raises BadRequestError (`json_too_deep`, `json_too_many_values`). Linear, and C all through: 12 ms for the worst MiB."""
    if not exceeds(body):
        return
    # What is left without escapes and strings: behind an odd number of quotes one is open.
    parts = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"', MAX_QUOTES)
    plain = b"".join(parts[::2])
    if len(parts) > MAX_QUOTES or max(plain.count(byte) for byte in (b",", b"[", b"{", b"]", b"}")) > MAX_VALUES:
        _check_depth(plain[:DEPTH_BYTES])
        raise BadRequestError(
            f"The JSON holds more than {MAX_VALUES} values. Send several requests.", code="json_too_many_values"
        )
    if exceeds(plain):
        _check_depth(plain)


def _check_depth(plain: bytes) -> None:
    depth = 0
    for bracket in BRACKET.finditer(plain):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_NESTING:
            raise BadRequestError(f"The JSON is nested more than {MAX_NESTING} levels deep.", code="json_too_deep")


def exceeds(text: bytes) -> bool:
    """Whether text may hold JSON that is too deep, or of too many values."""
    opened = text.count(b"[") + text.count(b"{")
    return opened > MAX_NESTING or text.count(b",") > MAX_VALUES
