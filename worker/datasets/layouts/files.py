"""The files of an upload, found by the ends of their names, for archives wrap them in folders of any name."""

import codecs
import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from difffit_core.errors import DatasetError
from worker.datasets.archives.archives import UnpackedFile
from worker.datasets.layouts.json_stream import elements, first_list
from worker.datasets.layouts.matlab import read_matlab

MAX_METADATA_BYTES = 256 * 1024**2  # read line by line; rows of the most files allowed are far smaller
MAX_JSON_BYTES = 16 * 1024**2  # read whole, which takes many times its size; the largest in use has 3 MB
HEAD = 1000  # bytes that show what a file is
MAX_LINE = 4 * 1024**2  # characters
UTF_8 = "utf-8-sig"
NO_TEXT = "it is no text in UTF-8, nor in UTF-16 with a mark at its beginning; save it as UTF-8"
SEPARATORS = (",", ";", "\t")  # of equals the first
QUOTED = re.compile(r'"[^"]*"')
OBJECT_BEGINS = re.compile(r'\{\s*(["}]|$)')

csv.field_size_limit(MAX_LINE)


class Files:
    """Names are those in the archive, folders have a `/` at their end."""

    def __init__(self, files: list[UnpackedFile]) -> None:
        self.files = {file.name: file for file in files}
        folders = {f"{parent}/" for name in self.files for parent in PurePosixPath(name).parents if str(parent) != "."}
        self._by_last_part: dict[str, list[str]] = defaultdict(list)
        for name in sorted([*self.files, *folders], key=lambda name: (name.count("/"), name)):
            self._by_last_part[_last_part(name)].append(name)

    def find(self, end: str) -> str | None:
        """The file or folder whose name is `end`, within as few other folders as possible."""
        return next((name for name in self._by_last_part[_last_part(end)] if f"/{name}".endswith(f"/{end}")), None)

    def need(self, end: str) -> str:
        """The same; raises DatasetError (`missing_file`) where there is none."""
        name = self.find(end)
        if name is None:
            raise DatasetError(f"There is no {end} in the archive.", code="missing_file", param="file")
        return name

    def inside(self, folder: str) -> list[str]:
        """The files in a folder and in those within it."""
        return [name for name in self.files if name.startswith(folder)]

    def lines(self, name: str) -> Iterator[tuple[int, str]]:
        """(number, line) of each line that is not empty; of UTF-8, wrong bytes become halves of surrogate pairs.

        Raises DatasetError.
        """
        with self._opened(name) as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1):
                if len(line) > MAX_LINE:
                    raise unreadable(name, f"line {number} is longer than {MAX_LINE} characters")
                if line.strip():
                    yield number, line.strip()

    def rows(self, name: str, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
        """(line, values) of `columns` in each row of a CSV file with a header. Raises DatasetError."""
        for number, row in self.records(name):
            absent = [column for column in columns if column not in row]
            if absent:
                raise unreadable(name, f"it has no column {absent[0]!r}")
            yield number, [row[column] or "" for column in columns]

    def records(self, name: str) -> Iterator[tuple[int, dict[str | None, Any]]]:
        """(line, values by column) of each row of a table with a header, decoded as in `lines`. Raises DatasetError.

        Its separator is the comma, semicolon or tab that the header has most of. What a row has beyond the last column is
        under None, white space after a separator is no part of a value.
        """
        with self._opened(name, newline="") as file:
            separator = _separator(file.readline(MAX_LINE))
            file.seek(0)
            reader = csv.DictReader(file, skipinitialspace=True, delimiter=separator)
            try:
                reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
                for row in reader:
                    yield reader.line_num, row
            except csv.Error as error:
                raise unreadable(name, str(error)) from error

    def json(self, name: str) -> Any:
        """Raises DatasetError."""
        try:
            return json.loads(self._limited(name, MAX_JSON_BYTES).path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise unreadable(name, "it is no JSON") from error

    def elements(self, name: str, key: str | None = None) -> Iterator[tuple[int, Any]]:
        """(number, element) of a long JSON array, counted from 1; see `json_stream`. Raises DatasetError."""
        with self._opened(name, errors="strict") as file:
            try:
                yield from enumerate(elements(file, key), start=1)
            except UnicodeError as error:
                raise unreadable(name, NO_TEXT) from error
            except (ValueError, RecursionError) as error:
                raise unreadable(name, f"it is no JSON that can be read ({error!s:.200})") from error

    def first_list(self, name: str) -> str | None:
        """The key of the first list of the JSON object that a file is; None where it has none. Raises DatasetError."""
        with self._opened(name) as file:
            try:
                return first_list(file)
            except (ValueError, RecursionError) as error:
                raise unreadable(name, f"it is no JSON that can be read ({error!s:.200})") from error

    def text(self, name: str, most: int) -> str | None:
        """A whole small file, of which no more than `most` characters and one are read; None where it is no UTF-8."""
        path = self.files[name].path
        with path.open(encoding=_encoding(path), newline="") as file:
            try:
                return file.read(most + 1)
            except UnicodeDecodeError:
                return None

    def first_character(self, name: str) -> str:
        """The first that is no space; nothing where a file does not begin with one soon. Raises DatasetError."""
        return self._head(name)[:1]

    def begins_object(self, name: str) -> bool:
        """Whether a file begins as a JSON object does, whatever becomes of it on the same line."""
        return OBJECT_BEGINS.match(self._head(name)) is not None

    def _head(self, name: str) -> str:
        with self._opened(name) as file:
            return file.read(HEAD).lstrip()

    def matlab(self, name: str, *variables: str) -> list[list[Any]]:
        """Variables of a MATLAB file as lists; see `read_matlab`. Raises DatasetError."""
        return read_matlab(self.files[name], variables)

    def numbers(self, name: str, *variables: str) -> list[list[int]]:
        """Variables of a MATLAB file that are arrays of whole numbers. Raises DatasetError."""
        arrays = self.matlab(name, *variables)
        for variable, values in zip(variables, arrays, strict=True):
            if not all(isinstance(value, int) for value in values):
                raise unreadable(name, f"{variable!r} holds more than whole numbers")
        return arrays

    def _opened(self, name: str, newline: str | None = None, errors: str = "surrogateescape") -> TextIO:
        """A list as text, in UTF-8, or in UTF-16 where a mark at its beginning says so. Raises DatasetError."""
        path = self._limited(name, MAX_METADATA_BYTES).path
        encoding = _encoding(path)
        if encoding == UTF_8:
            with path.open("rb") as file:
                if b"\0" in file.read(HEAD):
                    raise unreadable(name, NO_TEXT)
        return path.open(encoding=encoding, newline=newline, errors=errors if encoding == UTF_8 else "replace")

    def _limited(self, name: str, most: int) -> UnpackedFile:
        file = self.files[name]
        if file.path.stat().st_size > most:
            raise DatasetError(f"{name} is larger than {most} bytes.", code="metadata_too_large", param="file")
        return file


def _last_part(name: str) -> str:
    return PurePosixPath(name).name + ("/" if name.endswith("/") else "")


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else UTF_8


def _separator(header: str) -> str:
    """What a table's cells are separated by; names of columns may stand in quotes."""
    outside = QUOTED.sub("", header)
    return max(SEPARATORS, key=outside.count)


def unreadable(name: str, reason: str) -> DatasetError:
    """One of a dataset's lists is damaged, or is another file of that name."""
    return DatasetError(
        f"{name} cannot be read as this dataset's list: {reason}. Repair it, or take it from its authors once more.",
        code="invalid_metadata_file",
        param="file",
    )
