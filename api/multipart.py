"""A multipart body read as a stream: the parts and their bytes in order, nothing kept."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from api.errors import BadRequestError, MediaTypeError


@dataclass(frozen=True)
class PartBegins:
    name: str
    filename: str | None  # None: a plain field


class PartEnds:
    """The bytes of the part are complete."""


Event = PartBegins | bytes | PartEnds


async def read_multipart(request: Request) -> AsyncIterator[Event]:
    """For each part: PartBegins, its bytes in chunks as the network gives them, PartEnds."""
    content_type, options = parse_options_header(request.headers.get("content-type"))
    if content_type != b"multipart/form-data":
        raise MediaTypeError("Send the files as multipart/form-data, in the field `file`.", param="content-type")
    events: list[Event] = []
    try:
        parser = _parser(options.get(b"boundary", b""), events)
        async for chunk in request.stream():
            parser.write(chunk)
            for event in events:
                yield event
            events.clear()
    except FormParserError as error:
        raise _malformed(str(error)) from error
    if parser.state != MultipartState.END:
        raise _malformed("it ends in the middle of a part")


def _parser(boundary: bytes, events: list[Event]) -> MultipartParser:
    """A parser that appends to `events`."""
    header, value, disposition = bytearray(), bytearray(), bytearray()

    def header_ends() -> None:
        if header.lower() == b"content-disposition":
            disposition[:] = value
        header.clear()
        value.clear()

    def headers_end() -> None:
        _, options = parse_options_header(disposition.decode("latin-1"))
        disposition.clear()
        filename = options.get(b"filename")
        events.append(PartBegins(_text(options.get(b"name", b"")), None if filename is None else _text(filename)))

    if not boundary:
        raise _malformed("its content type names no boundary")
    return MultipartParser(
        boundary,
        {
            "on_header_field": lambda data, start, end: header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: value.extend(data[start:end]),
            "on_header_end": header_ends,
            "on_headers_finished": headers_end,
            "on_part_data": lambda data, start, end: events.append(data[start:end]),
            "on_part_end": lambda: events.append(PartEnds()),
        },
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _malformed(reason: str) -> BadRequestError:
    return BadRequestError(f"The multipart body cannot be read: {reason}.", code="invalid_multipart")
