"""Rows of metadata.jsonl, .csv or .tsv, as in Hugging Face's imagefolder: each picture's label, text and condition."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from worker.datasets.archives.archives import normal_text
from worker.datasets.layouts.files import Files, unreadable
from worker.datasets.layouts.layout import EMPTY_CAPTION, Annotation, Format, Layout, readable, some
from worker.datasets.layouts.parts import part_of, split_folders

LINES, TABLES = "metadata.jsonl", ("metadata.csv", "metadata.tsv")
# Of each the first that a row has; the others are told of as not read.
FILE = ("file_name", "image_file_name", "image", "file", "filename", "image_path")
LABEL = ("label", "class", "class_name")
CAPTION = ("text", "caption", "prompt", "captions")
CONDITION = ("conditioning_image_file_name", "conditioning_image", "condition_image", "control_image")
WHOLE = re.compile(r"(-?\d+)(\.0)?")  # a number of a class, as a table tool writes it beside an empty cell
EXAMPLE = '{"file_name": "cat-1.png", "label": "cat", "text": "a cat asleep"}'


def read(files: Files, layout: Layout) -> None:
    """The list may lie in any folder, and in several; its names are relative to its own."""
    layout.lists = {name for name in files.files if PurePosixPath(name).name in {LINES, *TABLES}}
    seen, parts, several = set[str](), split_folders(files.files), list[str]()
    for source in sorted(layout.lists):
        numbered = source.endswith(TABLES) and _is_numbered(files, source)
        for number, file, row in _rows(source, files, layout):
            name = _beside(source, file)
            if name not in files.files or name in layout.lists:
                layout.refuse_row(source, number, f"There is no file '{readable(file, 200)}' in the archive.", "missing_file")
            elif name in seen:
                layout.refuse_row(source, number, f"An earlier row names '{readable(file, 200)}' already.", "duplicate_row")
            else:
                seen.add(name)
                known = [_name(row, names) for names in (FILE, LABEL, CAPTION, CONDITION)]
                layout.not_read(field for field, value in row.items() if field not in known and value not in (None, ""))
                if isinstance(captions := _first(row, CAPTION), list) and len(captions) > 1:
                    several.append(name)
                _annotate_from_row(layout, files, f"{source}:{number}", name, row, part_of(name, parts), numbered)
    if several:
        layout.warn(
            "more_captions", f"{len(several)} pictures have several captions, of which the first is used: {some(several)}"
        )
    for name in files.files.keys() - seen - layout.lists - layout.conditions:
        layout.refuse(name, "no_metadata_row", "No row of the metadata names this file. Add one, or leave the file out.")


def _rows(source: str, files: Files, layout: Layout) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, file, row) of each usable line; the others are reported."""
    for number, row in _table_rows(files, source, layout) if source.endswith(TABLES) else _line_rows(files, source):
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
            columns = ", ".join(f"'{readable(column)}'" for column in row if column is not None)
            raise unreadable(
                source,
                f"none of its columns is called {FILE[0]}; they are {columns:.200}, separated by commas, semicolons or tabs",
            )
        if any(row.pop(None, ())):
            layout.refuse_row(source, number, "The row has more cells than the header. Put a text with separators into quotes.")
        else:
            yield number, {column: value for column, value in row.items() if value}


def _is_numbered(files: Files, source: str) -> bool:
    """Whether all labels of a table are whole numbers, be it as `0.0`."""
    labels = (_first(row, LABEL) for _, row in files.records(source))
    return all(WHOLE.fullmatch(label) for label in labels if label)


def _name(row: Mapping[Any, Any], columns: tuple[str, ...]) -> str | None:
    return next((column for column in columns if row.get(column) is not None), None)


def _first(row: Mapping[Any, Any], columns: tuple[str, ...]) -> Any:
    name = _name(row, columns)
    return None if name is None else row[name]


def _beside(source: str, file: str) -> str:
    return str(PurePosixPath(source).parent / normal_text(file.replace("\\", "/")))


def _annotate_from_row(
    layout: Layout, files: Files, where: str, name: str, row: dict[str, Any], part: str, numbered: bool
) -> None:
    """`where` is the list and the line of the row, `part` the file's of the split."""
    label, text, condition = _first(row, LABEL), _first(row, CAPTION), _first(row, CONDITION)
    if isinstance(label, int | float) and not isinstance(label, bool) and label % 1 == 0:
        label = str(int(label))
    elif numbered and label is not None and (whole := WHOLE.fullmatch(label)):
        label = whole[1]
    if isinstance(text, list) and text:
        text = text[0]
    if condition is not None:
        beside = _beside(where, condition) if isinstance(condition, str) else ""
        if beside not in files.files:
            layout.refuse(
                name,
                "missing_condition",
                f"{where}: there is no condition picture '{readable(str(condition), 200)}' in the archive.",
            )
            return
        layout.conditions.add(beside)
        condition = beside
    if text is not None and not isinstance(text, str):
        layout.refuse(name, "invalid_caption", f"{where}: `{_name(row, CAPTION)}` is no text but {readable(str(text))}.")
    elif label is not None and not isinstance(label, str):
        layout.refuse(
            name, "no_label", f"{where}: `{_name(row, LABEL)}` is neither text nor a whole number but {readable(str(label))}."
        )
    elif label is None and text is None and condition is None:
        layout.refuse(name, "no_label", f"{where}: the row has neither `label` nor `text` nor `conditioning_image`.")
    elif label is None and text is not None and not text.strip():
        layout.refuse(name, *EMPTY_CAPTION)
    else:
        layout.annotate(name, label, Annotation(caption=(text or "").rstrip(), condition=condition or "", split=part))


FORMAT = Format("metadata", marks=((LINES,), *((table,) for table in TABLES)), read=read)
