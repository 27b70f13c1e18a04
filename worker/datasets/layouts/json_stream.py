"""Long JSON read piece by piece: the elements of an array, of which only one is in memory at a time."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

CHUNK = 1024 * 1024  # characters
MAX_ELEMENT = 4 * 1024**2  # characters of one element, a number of times which it takes in memory
AHEAD = 3  # characters by which a number shows that it is over: `2` may go on as `2e+1`
SPACE = re.compile(r"[ \t\r\n]*")


def elements(file: TextIO, key: str | None = None) -> Iterator[Any]:
    """The elements of the array that the file is, or that is called `key` in the object that the file is.

    Raises ValueError where the file is no such JSON or an element is too long, and RecursionError where one is too deep.
    """
    reader = _Reader(file)
    if key is None:
        yield from reader.array()
    else:
        yield from reader.array_in_object(key)
    if reader.peek():
        raise ValueError("something follows its end")


def first_list(file: TextIO) -> str | None:
    """The key of the first array in the object that the file is; None where it has none. Raises as `elements` does."""
    return _Reader(file).first_list()


class _Reader:
    def __init__(self, file: TextIO) -> None:
        self._file, self._buffer, self._at = file, "", 0

    def array_in_object(self, key: str) -> Iterator[Any]:
        found = False
        for name in self._items("{", "}"):
            if not isinstance(name, str):
                raise ValueError("a key is no text")
            self._take(":")
            if name == key and self.peek() == "[":
                found = True
                yield from self.array()
            elif self.peek() == "[":
                for _ in self.array():
                    pass
            else:
                self._value()
        if not found:
            raise ValueError(f"it has no list {key!r}")

    def first_list(self) -> str | None:
        for name in self._items("{", "}"):
            self._take(":")
            if self.peek() == "[":
                return str(name)
            self._value()
        return None

    def array(self) -> Iterator[Any]:
        yield from self._items("[", "]")

    def _items(self, begin: str, end: str) -> Iterator[Any]:
        """The values that follow `begin` and each comma, until `end`."""
        self._take(begin)
        if self.peek() != end:
            yield self._value()
            while self.peek() == ",":
                self._take(",")
                yield self._value()
        self._take(end)

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"there is no {character!r} where one must be")
        self._at += 1

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            match = SPACE.match(self._buffer, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._buffer) or not self._read(CHUNK):
                return self._buffer[self._at : self._at + 1]

    def _value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._buffer, self._at)
            except json.JSONDecodeError:
                held = len(self._buffer) - self._at
                if held > MAX_ELEMENT or not self._read(max(held, CHUNK)):
                    raise
                continue
            if len(self._buffer) - end < AHEAD and self._read(CHUNK):
                continue
            if end - self._at > MAX_ELEMENT:
                raise ValueError(f"an element is longer than {MAX_ELEMENT} characters")
            self._at = end
            return value

    def _read(self, count: int) -> bool:
        """Whether there was more, which moves what is left of the buffer to its beginning."""
        piece = self._file.read(count)
        if piece:
            self._buffer, self._at = self._buffer[self._at :] + piece, 0
        return bool(piece)
