"""Rows of metadata.jsonl or .csv, as in Hugging Face's imagefolder: a picture's label, text and condition as its row says."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from worker.archives import normal_text
from worker.layouts.files import Files, unreadable
from worker.layouts.layout import EMPTY_CAPTION, Annotation, Format, Layout
from worker.layouts.parts import part_of, split_folders

LINES, TABLE = "metadata.jsonl", "metadata.csv"
FILE = ("file_name", "image_file_name", "image")  # the first that a row has
CONDITION = ("conditioning_image_file_name", "conditioning_image")
EXAMPLE = '{"file_name": "cat-1.png", "label": "cat", "text": "a cat asleep"}'


def read(files: Files, layout: Layout) -> None:
    """The list may lie in any folder, and in several; its names are relative to its own."""
    layout.lists = {name for name in files.files if PurePosixPath(name).name in {LINES, TABLE}}
    seen, parts = set[str](), split_folders(files.files)
    for source in sorted(layout.lists):
        for number, file, row in _rows(source, files, layout):
            name = _beside(source, file)
            if name not in files.files or name in layout.lists:
                layout.refuse_row(source, number, f"There is no file {file!r:.200} in the archive.", "missing_file")
            elif name in seen:
                layout.refuse_row(source, number, f"An earlier row names {file!r:.200} already.", "duplicate_row")
            else:
                seen.add(name)
                _annotate_from_row(layout, files, f"{source}:{number}", name, row, part_of(name, parts))
    for name in files.files.keys() - seen - layout.lists - layout.conditions:
        layout.refuse(name, "no_metadata_row", "No row of the metadata names this file. Add one, or leave the file out.")


def _rows(source: str, files: Files, layout: Layout) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, file, row) of each usable line; the others are reported."""
    for number, row in _table_rows(files, source, layout) if source.endswith(TABLE) else _line_rows(files, source):
        file = _first(row, FILE) if isinstance(row, dict) else None
        if isinstance(file, str):
            yield number, file, row
        else:
            layout.refuse_row(source, number, f"The line is no row such as {EXAMPLE}.")


def _line_rows(files: Files, source: str) -> Iterator[tuple[int, Any]]:
    for number, line in files.lines(source):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, None


def _table_rows(files: Files, source: str, layout: Layout) -> Iterator[tuple[int, Any]]:
    """A cell with nothing in it says nothing. Raises DatasetError where no column names files."""
    for number, row in files.records(source):
        if not any(column in row for column in FILE):
            columns = ", ".join(repr(column) for column in row if column is not None)
            raise unreadable(source, f"none of its columns is called {FILE[0]}; they are {columns:.200}, separated by commas")
        if any(row.pop(None, ())):
            layout.refuse_row(source, number, "The row has more cells than the header. Put a text with commas into quotes.")
        else:
            yield number, {column: value for column, value in row.items() if value}


def _first(row: dict[str, Any], columns: tuple[str, ...]) -> Any:
    return next((row[column] for column in columns if row.get(column) is not None), None)


def _beside(source: str, file: str) -> str:
    return str(PurePosixPath(source).parent / normal_text(file.replace("\\", "/")))


def _annotate_from_row(layout: Layout, files: Files, where: str, name: str, row: dict[str, Any], part: str) -> None:
    """`where` is the list and the line of the row, `part` the file's of the split."""
    label, text, condition = row.get("label"), row.get("text"), _first(row, CONDITION)
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    if condition is not None:
        beside = _beside(where, condition) if isinstance(condition, str) else ""
        if beside not in files.files:
            layout.refuse(
                name, "missing_condition", f"{where}: there is no condition picture {condition!r:.200} in the archive."
            )
            return
        layout.conditions.add(beside)
        condition = beside
    if text is not None and not isinstance(text, str):
        layout.refuse(name, "invalid_caption", f"{where}: `text` is no text but {text!r:.100}.")
    elif label is not None and not isinstance(label, str):
        layout.refuse(name, "no_label", f"{where}: `label` is neither text nor a whole number but {label!r:.100}.")
    elif label is None and text is None and condition is None:
        layout.refuse(name, "no_label", f"{where}: the row has neither `label` nor `text` nor `conditioning_image`.")
    elif label is None and text is not None and not text.strip():
        layout.refuse(name, *EMPTY_CAPTION)
    else:
        layout.annotate(name, label, Annotation(caption=(text or "").rstrip(), condition=condition or "", split=part))


FORMAT = Format("metadata", marks=((LINES,), (TABLE,)), read=read)
