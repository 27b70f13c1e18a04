"""Rows of texts for language models: objects of JSON lists, one a line, or rows of tables, in all files of an upload."""

import json
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from difffit_core.errors import DatasetError
from difffit_core.spec.conversations import Message
from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import MAX_PROMPT, Layout, storable

TABLES = (".csv", ".tsv")
ROWS = (".json", ".jsonl", ".ndjson", *TABLES)
NOTES = ("", ".md", ".txt")  # of files beside them, such as a licence
# What a conversation is called; a list of another name within an object is the list of its rows.
CONVERSATIONS = ("messages", "conversations", "conversation")
FIRST_FIELDS = frozenset({*CONVERSATIONS, "instruction", "question", "query", "prompt", "text"})  # by which a row is known
SYSTEM = ("system", "system_prompt")
NO_OBJECT = "This is no JSON object. Send a list of objects, or one object a line."
NO_TOOLS = "Calls of tools are not learned, and `{}` has some. Leave the row out, or the tools."


class BadRow(Exception):
    """A row has no example; says which field is wrong."""


class Row:
    """A row's fields, of which those are known that somebody has asked for."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self._known = {"tools"}
        self.unknown_within: set[str] = set()  # fields of its messages that nobody knows

    def name(self, names: tuple[str, ...]) -> str | None:
        """The first of these that the row has something in."""
        found = next((name for name in names if not is_empty(self.fields.get(name))), None)
        self._known |= {name for name in names if is_empty(self.fields.get(name))} | {found or names[0]}
        return found

    def text(self, names: tuple[str, ...]) -> str:
        """What it has under the first of these names. Raises BadRow."""
        return text_of(self.fields, self.name(names) or names[0])

    def optional_text(self, names: tuple[str, ...]) -> str:
        """The same, or nothing where there is none."""
        name = self.name(names)
        if name is None or (isinstance(value := self.fields[name], str) and not value.strip()):
            return ""
        return text_of(self.fields, name)

    def system(self) -> list[Message]:
        text = self.optional_text(SYSTEM)
        return [{"role": "system", "content": text}] if text else []

    def check_tools(self) -> None:
        if not is_empty(self.fields.get("tools")):
            raise BadRow(NO_TOOLS.format("tools"))

    @property
    def unknown(self) -> set[str]:
        """Fields with something in them that are not read."""
        rest = {name for name, value in self.fields.items() if name not in self._known and not is_empty(value)}
        return rest | self.unknown_within


def is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def is_text_upload(files: Files) -> bool:
    """Whether there are only files of rows, and notes."""
    suffixes = {PurePosixPath(name).suffix.lower() for name in files.files}
    return not suffixes.isdisjoint(ROWS) and suffixes <= {*ROWS, *NOTES}


def read_conversations(files: Files, layout: Layout, messages: Callable[[Row], list[Message]]) -> None:
    """Make what `messages` says of each row an example, or the BadRow that it raises a refusal."""
    for source, number, fields in _rows(files, layout):
        row = Row(fields)
        try:
            row.check_tools()
            said = messages(row)
        except BadRow as error:
            layout.refuse_row(source, number, str(error), "invalid_row")
        else:
            layout.add_text(f"{source}:{number}", said)
            layout.not_read(row.unknown)


def _rows(files: Files, layout: Layout) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(file, number, fields) of each row, by line or by place in the list, from 1; what is none is reported."""
    layout.lists = {name for name in files.files if name.lower().endswith(ROWS)}
    if not layout.lists:
        raise DatasetError(f"There is no file with rows ({', '.join(ROWS)}) in the upload.", code="missing_file", param="file")
    for source in sorted(layout.lists):
        for number, row in _values(files, source):
            if isinstance(row, dict):
                yield source, number, row
            else:
                layout.refuse_row(source, number, row)


def first_rows(files: Files) -> Iterator[dict[str, Any]]:
    """The first row of each file that has one and can be read."""
    for source in files.files:
        if source.lower().endswith(ROWS):
            try:
                row = next(_values(files, source), (0, ""))[1]
            except DatasetError:
                continue
            if isinstance(row, dict):
                yield row


def _values(files: Files, source: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(number, the row's fields, or why it is none)."""
    if source.lower().endswith(TABLES):
        yield from _table_rows(files, source)
    elif _one_value_a_line(files, source):
        for number, line in files.lines(source):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            yield from ((number, row) for row in _unwrapped(value))
    else:
        for number, value in _elements(files, source):
            yield from ((number, row) for row in _unwrapped(value))


def _table_rows(files: Files, source: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, row in files.records(source):
        if any(row.pop(None, ())):
            yield number, "The row has more cells than the header. Put a text with separators into quotes."
        else:
            yield number, {str(column): value for column, value in row.items() if value}


def _one_value_a_line(files: Files, source: str) -> bool:
    """Whether the first line is whole, or no JSON at all: else it is the beginning of one long value."""
    lines = files.lines(source)
    try:
        _, first = next(lines, (0, ""))
    except DatasetError:  # it is very long
        return False
    try:
        value = json.loads(first)
    except RecursionError:
        return False
    except ValueError:  # a damaged row, unless a long value goes on in the next line
        return files.first_character(source) != "[" and (first.endswith("}") or not files.begins_object(source))
    return not isinstance(value, list) or next(lines, None) is not None


def _elements(files: Files, source: str) -> Iterator[tuple[int, Any]]:
    """Those of the list that the file is, or that the object has that the file is, or that object itself."""
    if files.first_character(source) == "[":
        yield from files.elements(source)
        return
    key = files.first_list(source)
    if key is None or key in CONVERSATIONS:
        yield 1, files.json(source)
    else:
        yield from files.elements(source, key)


def _unwrapped(value: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of one value: itself, those of its list, or a conversation that is a bare list of messages."""
    if isinstance(value, dict):
        lists = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
        if len(lists) == 1 and FIRST_FIELDS.isdisjoint(value):
            yield from (row if isinstance(row, dict) else NO_OBJECT for row in lists[0])
        else:
            yield value
    elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        if all({"role", "from"} & row.keys() for row in value):
            yield {CONVERSATIONS[0]: value}
        else:
            yield from value
    else:
        yield NO_OBJECT


def text_of(row: dict[str, Any], field: str, path: str = "") -> str:
    """A field that has to be a text with something in it; `path` is where the row lies. Raises BadRow."""
    if row.get(field) is None:
        raise BadRow(f"The field `{path}{field}` is missing.")
    value = row[field]
    if not isinstance(value, str):
        raise BadRow(f"The field `{path}{field}` is no text.")
    if not value.strip():
        raise BadRow(f"The field `{path}{field}` is empty.")
    if len(value) > MAX_PROMPT:
        raise BadRow(f"The field `{path}{field}` has more than {MAX_PROMPT} characters. Shorten it, or split the row.")
    if not storable(value):
        raise BadRow(f"The field `{path}{field}` has characters that are no text in UTF-8. Save the file as UTF-8.")
    return value
