"""Rows of metadata.jsonl: a file's label, and its text, are what the row that names it says."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from worker.archives import refusal
from worker.layouts.files import Files
from worker.layouts.layout import Format, Layout, storable

METADATA = "metadata.jsonl"


def read(files: Files, layout: Layout) -> None:
    """A metadata.jsonl may lie in any folder, and in several; its names are relative to its own."""
    layout.lists = {name for name in files.files if PurePosixPath(name).name == METADATA}
    seen: set[str] = set()
    for source in sorted(layout.lists):
        for where, row in _rows(source, files, layout):
            name = str(PurePosixPath(source).parent / str(row["file_name"]).replace("\\", "/"))
            if name not in files.files or name in layout.lists:
                layout.bad_rows.append(refusal(where, "missing_file", f"There is no file {row['file_name']!r} in the archive."))
            elif name in seen:
                layout.bad_rows.append(refusal(where, "duplicate_row", f"An earlier row names {row['file_name']!r} already."))
            else:
                seen.add(name)
                _caption_from_row(layout, name, row)
    for name in files.files.keys() - seen - layout.lists:
        layout.refuse(name, "no_metadata_row", f"No row of {METADATA} names this file. Add one, or leave the file out.")


def _rows(source: str, files: Files, layout: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each usable line; the others are reported."""
    for number, line in files.lines(source):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("file_name"), str):
            yield f"{source}:{number}", row
        else:
            layout.refuse_row(source, number, 'The line is no row such as {"file_name": "cat-1.png", "label": "cat"}.')


def _caption_from_row(layout: Layout, name: str, row: dict[str, Any]) -> None:
    label, text = row.get("label"), row.get("text")
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    text = text if isinstance(text, str) and storable(text) else None
    if isinstance(label, str):
        layout.add(name, label, text)
    elif label is None and text is not None:
        message = "The row has a text but no label, and the base models of this server are trained by class. Add a label."
        layout.refuse(name, "text_only", message)
    else:
        message = f"The row of this file in {METADATA} has no label that is a string or an integer."
        layout.refuse(name, "no_label", message)


FORMAT = Format("metadata", marks=((METADATA,),), read=read)
