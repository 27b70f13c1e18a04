"""What a layout says of an upload: class, text and split by file name, and a reason for each file without them."""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from worker.archives import MAX_NAME, Refusal, refusal
from worker.layouts.files import Files

Warning = dict[str, str]  # {code, message}

MAX_LABEL = 200  # characters
SHOWN_NAMES = 10  # in a warning
SYSTEM_FOLDERS = {"__MACOSX", ".git", "@eaDir"}
SYSTEM_FILES = {".DS_Store", "Thumbs.db", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Published:
    """The counts that a dataset's authors publish; `splits` is empty where they give no split."""

    classes: int
    images: int
    splits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One layout. `marks` are what it is recognised by: all files and folders (with `/` at the end) of any one tuple.

    `read` fills the Layout, and raises DatasetError where a list of the dataset cannot be read.
    """

    name: str
    marks: tuple[tuple[str, ...], ...]
    read: Callable[[Files, "Layout"], None]
    published: Published | None = None


@dataclass(frozen=True)
class Caption:
    """What is known of a picture: its class, its text where the metadata has one, and its part of the official split."""

    label: str
    text: str | None = None
    split: str = ""


@dataclass(frozen=True)
class Row:
    """What a dataset's list says of one file; `source` is the list's name, `file` the name in the archive."""

    source: str
    file: str
    label: str
    split: str = ""


@dataclass
class Layout:
    """The captions by file name, and a reason for each file or row without one."""

    kind: str
    published: Published | None = None
    captions: dict[str, Caption] = field(default_factory=dict)
    without_caption: dict[str, Refusal] = field(default_factory=dict)  # by file name
    bad_rows: list[Refusal] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)
    lists: set[str] = field(default_factory=set)  # files that were read, and are no pictures

    def add(self, name: str, label: str, text: str | None = None, split: str = "") -> None:
        """Caption a file, or note why its label cannot be used."""
        label = label.strip()
        if label and len(label) <= MAX_LABEL and storable(label):
            self.captions[name] = Caption(label, text, split)
        else:
            self.refuse(name, "invalid_label", f"A class name has 1 to {MAX_LABEL} printable characters; rename the class.")

    def refuse(self, name: str, code: str, message: str) -> None:
        self.without_caption[name] = refusal(name, code, message)

    def refuse_row(self, source: str, number: int, message: str) -> None:
        self.bad_rows.append(refusal(f"{source}:{number}", "invalid_metadata_row", message))

    def take(self, rows: Iterable[Row], names: Container[str]) -> None:
        """Caption the files of all rows; the first row counts, and rows without their file become a warning for each list."""
        missing, repeated = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for row in rows:
            if row.file not in names:
                missing[row.source].append(row.file)
            elif row.file in self.captions:
                repeated[row.source].append(row.file)
            else:
                self.add(row.file, row.label, split=row.split)
        for source, files in missing.items():
            self.warn("missing_files", f"{source} names {len(files)} files that are not in the archive: {_some(files)}")
        for source, files in repeated.items():
            self.warn("duplicate_rows", f"{source} names {len(files)} files for the second time: {_some(files)}")

    def warn(self, code: str, message: str) -> None:
        self.warnings.append({"code": code, "message": message})

    def knows(self, name: str) -> bool:
        """Whether the file has a caption, or a reason for having none, or is one of the lists."""
        return name in self.captions or name in self.without_caption or name in self.lists

    def refuse_rest(self, names: Iterable[str]) -> None:
        """A reason for each file that the layout says nothing of."""
        for name in names:
            if not self.knows(name):
                self.refuse(name, "no_metadata_row", f"Nothing in the lists of {self.kind} names this file.")


def _some(names: list[str]) -> str:
    """The first names, such that PostgreSQL can hold them whatever a list has in it."""
    return ", ".join(repr(name[:MAX_NAME]) for name in names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")


def storable(text: str) -> bool:
    """PostgreSQL's JSON holds neither NUL nor half a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def is_system_file(name: str) -> bool:
    """Whether an operating system or a tool left this file, not the user."""
    path = PurePosixPath(name)
    return not SYSTEM_FOLDERS.isdisjoint(path.parts) or path.name in SYSTEM_FILES or path.name.startswith("._")
