"""A multipart body read as a stream: the parts and their bytes in order, nothing kept."""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.datastructures import Headers

from api.kit.errors import BadRequestError, MediaTypeError


@dataclass(frozen=True)
class PartBegins:
    name: str
    filename: str | None  # None: a plain field


class PartEnds:
    """The bytes of the part are complete."""


Event = PartBegins | bytes | PartEnds


class MultipartReader:
    """Takes a body apart as it arrives. Raises MediaTypeError for another kind of body, BadRequestError where it is damaged."""

    def __init__(self, headers: Headers) -> None:
        content_type, options = parse_options_header(headers.get("content-type"))
        if content_type != b"multipart/form-data":
            raise MediaTypeError("Send the files as multipart/form-data, in the field `file`.", param="content-type")
        self._events: list[Event] = []
        try:
            self._parser = _parser(options.get(b"boundary", b""), self._events)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def feed(self, chunk: bytes) -> list[Event]:
        """What the next bytes of the body hold; for each part PartBegins, its bytes as they come, PartEnds."""
        self._events.clear()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error
        return self._events

    def end(self) -> None:
        if self._parser.state != MultipartState.END:
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
