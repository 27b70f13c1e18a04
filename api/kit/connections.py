"""Connections that nobody can hold for ever: limits of time and size for what uvicorn reads before there is a request."""

import json
from asyncio import TimerHandle, Transport
from typing import Any
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from jobstore.kit.settings import get_settings

HEAD_BYTES = 16 * 1024  # of a request line and all headers; what others allow too. The longest of ours has 4 KiB
HEADERS = 100
SMALL_CHUNKS = 1000  # of a chunked body; more of them must have `CHUNK_BYTES` on average, since each costs as a large one does
CHUNK_BYTES = 64
PROGRESS_BYTES = 64 * 1024  # of an answer, or of an upload, that `request_seconds` must bring
REFUSED = (
    f"This is no HTTP/1.1 request, or its head has more than {HEAD_BYTES} bytes or {HEADERS} headers, or its chunks are too "
    "small to be read."
)


class TooMuch(Exception):
    """What arrives is no request that any client would send."""


class Connection(HttpToolsProtocol):
    """uvicorn's own protocol, which closes the connection where

    - the head of a request is not there `request_seconds` after the connection was made or the head began,
    - the rest of a body that nobody reads any more does not end within that time,
    - the client takes nothing of an answer for so long,
    - a head, a trailer or the frame of a chunk is too large, or chunks are too small.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = get_settings().request_seconds
        self._reading: TimerHandle | None = None  # closes where the client is slow to send
        self._writing: TimerHandle | None = None  # closes where it is slow to take
        self._whole = True  # there is no request of which a part is still to come
        self._silent = self._head = self._fields = self._body = self._chunks = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_client()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._silent += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._silent > HEAD_BYTES:  # of a field that does not end
            self.send_400_response("A part of the head is too long.")
        elif self._whole and self._reading is None and self._idle:  # it was nothing yet
            self._wait_for_client()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._whole = False
        self._head = self._fields = self._body = self._chunks = 0
        self._wait_for_client()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        self._silent = 0
        self._head += size
        if self._head > HEAD_BYTES or self._fields > HEADERS:
            raise TooMuch

    def on_headers_complete(self) -> None:
        self._wait_no_more()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._silent = 0
        self._chunks += 1
        if self._chunks > max(SMALL_CHUNKS, self._body // CHUNK_BYTES):
            raise TooMuch

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent, self._whole = 0, True
        self._wait_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._whole:
            self._wait_for_client()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, in the one shape of errors."""
        if self._idle:
            error = {"type": "invalid_request", "code": "malformed_request", "message": REFUSED, "param": None}
            body = json.dumps({"error": error}).encode()
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-request-id: {uuid4().hex}\r\n"
            self.transport.write(STATUS_LINE[400] + head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    @property
    def _idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_client(self) -> None:
        self._wait_no_more()
        self._reading = self.loop.call_later(self._seconds, self._sent_nothing)

    def _wait_no_more(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _sent_nothing(self) -> None:
        if self._idle:
            self.transport.close()
        else:  # what waits comes after a request that is still being answered
            self._wait_for_client()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _wait_for_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self._seconds, self._took, unsent)

    def _took(self, unsent: int) -> None:
        """So many bytes were to be sent some time ago."""
        if unsent - self.transport.get_write_buffer_size() < PROGRESS_BYTES:
            self.transport.abort()
        else:
            self._wait_for_reader()
