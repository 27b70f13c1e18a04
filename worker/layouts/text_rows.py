"""Rows of texts for language models: the objects of JSON lists, or one a line, in all files of an upload."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from difffit_core.errors import DatasetError
from worker.layouts.files import Files
from worker.layouts.layout import MAX_PROMPT, Layout, storable

ROWS = (".json", ".jsonl")
NOTES = ("", ".md", ".txt")  # of files beside them, such as a licence


class BadRow(Exception):
    """A row has no example; says which field is wrong."""


def is_text_upload(files: Files) -> bool:
    """Whether there are only files of rows, and notes."""
    suffixes = {PurePosixPath(name).suffix.lower() for name in files.files}
    return not suffixes.isdisjoint(ROWS) and suffixes <= {*ROWS, *NOTES}


def read_rows(files: Files, layout: Layout) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(file, number, row) of each JSON object, by line or by place in the list, from 1; what is none is reported."""
    layout.lists = {name for name in files.files if name.lower().endswith(ROWS)}
    if not layout.lists:
        raise DatasetError(f"There is no file with rows ({', '.join(ROWS)}) in the upload.", code="missing_file", param="file")
    for source in sorted(layout.lists):
        for number, row in _values(files, source):
            if isinstance(row, dict):
                yield source, number, row
            else:
                layout.refuse_row(source, number, "This is no JSON object. Send a list of objects, or one object a line.")


def first_rows(files: Files) -> Iterator[dict[str, Any]]:
    """The first row of each file that has one and can be read."""
    for source in files.files:
        if source.lower().endswith(ROWS):
            try:
                row = next(_values(files, source), (0, None))[1]
            except DatasetError:
                continue
            if isinstance(row, dict):
                yield row


def _values(files: Files, source: str) -> Iterator[tuple[int, Any]]:
    """A list begins with `[`, whatever the file is called; without it every line is one value."""
    if files.first_byte(source) == b"[":
        yield from files.elements(source)
        return
    for number, line in files.lines(source):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, None


def text_of(row: dict[str, Any], field: str, path: str = "") -> str:
    """A field that has to be a text with something in it; `path` is where the row lies. Raises BadRow."""
    if field not in row:
        raise BadRow(f"The field `{path}{field}` is missing.")
    value = row[field]
    if not isinstance(value, str):
        raise BadRow(f"The field `{path}{field}` is no text.")
    if not value.strip():
        raise BadRow(f"The field `{path}{field}` is empty.")
    if len(value) > MAX_PROMPT:
        raise BadRow(f"The field `{path}{field}` has more than {MAX_PROMPT} characters. Shorten it, or split the row.")
    if not storable(value):
        raise BadRow(f"The field `{path}{field}` has characters that are no text in UTF-8.")
    return value
