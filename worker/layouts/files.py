"""The files of an upload, found by the ends of their names, for archives wrap them in folders of any name."""

import codecs
import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from difffit_core.errors import DatasetError
from worker.archives import UnpackedFile
from worker.layouts.json_stream import elements
from worker.layouts.matlab import read_matlab

MAX_METADATA_BYTES = 256 * 1024**2  # read line by line; rows of the most files allowed are far smaller
MAX_JSON_BYTES = 16 * 1024**2  # read whole, which takes many times its size; the largest in use has 3 MB
HEAD = 1000  # bytes that show what a file is
MAX_LINE = 4 * 1024**2  # characters


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
        """(number, line) of each line that is not empty; bytes that are no UTF-8 become halves of surrogate pairs.

        Raises DatasetError.
        """
        with self._limited(name, MAX_METADATA_BYTES).path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
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
        """(line, values by column) of each row of a CSV file with a header, decoded as in `lines`. Raises DatasetError.

        What a row has beyond the last column is under None, white space after a comma is no part of a value.
        """
        path = self._limited(name, MAX_METADATA_BYTES).path
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            try:
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
        with self._limited(name, MAX_METADATA_BYTES).path.open(encoding="utf-8-sig") as file:
            try:
                yield from enumerate(elements(file, key), start=1)
            except (ValueError, RecursionError) as error:
                raise unreadable(name, f"it is no JSON that can be read ({error!s:.200})") from error

    def text(self, name: str, most: int) -> str | None:
        """A whole small file, of which no more than `most` characters and one are read; None where it is no UTF-8."""
        with self.files[name].path.open(encoding="utf-8-sig", newline="") as file:
            try:
                return file.read(most + 1)
            except UnicodeDecodeError:
                return None

    def first_byte(self, name: str) -> bytes:
        """The first that is no space; nothing where a file does not begin with one soon."""
        with self.files[name].path.open("rb") as file:
            return file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip()[:1]

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

    def _limited(self, name: str, most: int) -> UnpackedFile:
        file = self.files[name]
        if file.path.stat().st_size > most:
            raise DatasetError(f"{name} is larger than {most} bytes.", code="metadata_too_large", param="file")
        return file


def _last_part(name: str) -> str:
    return PurePosixPath(name).name + ("/" if name.endswith("/") else "")


def unreadable(name: str, reason: str) -> DatasetError:
    """One of a dataset's lists is damaged, or is another file of that name."""
    return DatasetError(
        f"{name} cannot be read as this dataset's list: {reason}. Repair it, or take it from its authors once more.",
        code="invalid_metadata_file",
        param="file",
    )
