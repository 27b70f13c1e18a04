"""Which label a file of an upload has: from the folder it lies in, or from the rows of metadata.jsonl."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from difffit_core.errors import DatasetError
from worker.archives import Refusal, UnpackedFile, refusal

METADATA = "metadata.jsonl"
MAX_METADATA_BYTES = 256 * 1024**2  # rows of the most files allowed are far smaller
MAX_LABEL = 200  # characters
SYSTEM_FOLDERS = {"__MACOSX", ".git", "@eaDir"}
SYSTEM_FILES = {".DS_Store", "Thumbs.db", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Caption:
    """What is known of a picture: its class, and its text where the metadata has one."""

    label: str
    text: str | None = None


@dataclass
class Layout:
    """The captions by file name, and a reason for each file or row without one."""

    kind: Literal["folders", "metadata"]
    captions: dict[str, Caption] = field(default_factory=dict)
    without_caption: dict[str, Refusal] = field(default_factory=dict)  # by file name
    bad_rows: list[Refusal] = field(default_factory=list)


def is_system_file(name: str) -> bool:
    """Whether an operating system or a tool left this file, not the user."""
    path = PurePosixPath(name)
    return not SYSTEM_FOLDERS.isdisjoint(path.parts) or path.name in SYSTEM_FILES or path.name.startswith("._")


def is_metadata(name: str) -> bool:
    return PurePosixPath(name).name == METADATA


def read_layout(files: list[UnpackedFile]) -> Layout:
    """Metadata rows where there is a metadata.jsonl anywhere, class folders otherwise.

    Raises DatasetError (`metadata_too_large`).
    """
    metadata = [file for file in files if is_metadata(file.name)]
    names = [file.name for file in files if not is_metadata(file.name)]
    return _from_metadata(metadata, names) if metadata else _from_folders(names)


def _from_folders(names: list[str]) -> Layout:
    layout = Layout("folders")
    wrapper = _wrapper(names)
    for name in names:
        folder = str(PurePosixPath(name).parent)
        if folder in {".", wrapper}:
            message = f"The file lies in no class folder. Move it into one, or name its label in a {METADATA}."
            layout.without_caption[name] = refusal(name, "no_label", message)
        else:
            _caption(layout, name, PurePosixPath(folder).name, None)
    return layout


def _wrapper(names: list[str]) -> str | None:
    """The one folder around all class folders, if there is one."""
    paths = [PurePosixPath(name) for name in names]
    tops = {path.parts[0] for path in paths}
    return tops.pop() if len(tops) == 1 and any(len(path.parts) > 2 for path in paths) else None


def _from_metadata(metadata: list[UnpackedFile], names: list[str]) -> Layout:
    layout = Layout("metadata")
    known = set(names)
    seen: set[str] = set()
    for file in metadata:
        for where, row in _rows(file, layout):
            name = str(PurePosixPath(file.name).parent / str(row["file_name"]).replace("\\", "/"))
            if name not in known:
                layout.bad_rows.append(refusal(where, "missing_file", f"There is no file {row['file_name']!r} in the archive."))
            elif name in seen:
                layout.bad_rows.append(refusal(where, "duplicate_row", f"An earlier row names {row['file_name']!r} already."))
            else:
                seen.add(name)
                _caption_from_row(layout, name, row)
    for name in names:
        if name not in seen:
            message = f"No row of {METADATA} names this file. Add one, or leave the file out."
            layout.without_caption[name] = refusal(name, "no_metadata_row", message)
    return layout


def _rows(file: UnpackedFile, layout: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each usable line; the others are reported."""
    if file.path.stat().st_size > MAX_METADATA_BYTES:
        raise DatasetError(f"{file.name} is larger than {MAX_METADATA_BYTES} bytes.", code="metadata_too_large", param="file")
    with file.path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file.name}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and isinstance(row.get("file_name"), str):
                yield where, row
            else:
                message = 'The line is no row such as {"file_name": "cat-1.png", "label": "cat"}.'
                layout.bad_rows.append(refusal(where, "invalid_metadata_row", message))


def _caption_from_row(layout: Layout, name: str, row: dict[str, Any]) -> None:
    label, text = row.get("label"), row.get("text")
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    text = text if isinstance(text, str) and _storable(text) else None
    if isinstance(label, str):
        _caption(layout, name, label, text)
    elif label is None and text is not None:
        message = "The row has a text but no label, and the base models of this server are trained by class. Add a label."
        layout.without_caption[name] = refusal(name, "text_only", message)
    else:
        message = f"The row of this file in {METADATA} has no label that is a string or an integer."
        layout.without_caption[name] = refusal(name, "no_label", message)


def _caption(layout: Layout, name: str, label: str, text: str | None) -> None:
    label = label.strip()
    if label and len(label) <= MAX_LABEL and _storable(label):
        layout.captions[name] = Caption(label, text)
    else:
        message = f"A class name has 1 to {MAX_LABEL} printable characters; rename the class."
        layout.without_caption[name] = refusal(name, "invalid_label", message)


def _storable(text: str) -> bool:
    """PostgreSQL's JSON holds neither NUL nor half a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
