"""What a layout says of an upload: each picture's annotation, texts without pictures, and a reason for all that is left out."""

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from difffit_core.errors import DatasetError
from difffit_core.spec.conversations import Message
from difffit_core.tasks.config import Frame
from jobstore.kit.plain_text import is_plain
from worker.datasets.archives.archives import MAX_NAME, Refusal, refusal
from worker.datasets.layouts.files import Files

Warning = dict[str, str]  # {code, message}

MAX_LABEL = 200  # characters
MAX_CAPTION = 5_000  # characters; no text encoder reads half as many
MAX_PROMPT = 200_000  # characters of a field of texts, and of a conversation; more than the longest `max_tokens` holds
MAX_TEXTS = 500_000  # rows of texts in a dataset
MAX_TEXT_TOTAL = 256 * 1024**2  # characters of all of them: they are in memory until the content is written
MAX_LISTED = 10_000  # rows, of those that a report names one by one
EMPTY_CAPTION = ("empty_caption", "The caption is empty. Write one, or leave the picture out.")
SHOWN_NAMES = 10  # in a warning
MAX_FIELDS = 50  # that are not read, by name
# What systems and tools leave behind under names that do not begin with a dot; without regard to capitals.
SYSTEM_FOLDERS = {"__macosx", "$recycle.bin", "recycler", "#recycle", "@recycle", "@eadir", "@tmp", "lost+found"}
SYSTEM_FOLDERS |= {"system volume information", "__pycache__"}
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}


@dataclass(frozen=True)
class Published:
    """The counts that a dataset's authors publish; `splits` is empty where they give no split."""

    classes: int
    images: int
    splits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One layout. It is recognised by its `marks`, all files and folders (with `/` at the end) of any one tuple, and `fits`.

    `read` fills the Layout, and raises DatasetError where a list of the dataset cannot be read. `frame` is what its texts are
    written for.
    """

    name: str
    marks: tuple[tuple[str, ...], ...]
    read: Callable[[Files, "Layout"], None]
    published: Published | None = None
    fits: Callable[[Files], bool] = lambda files: True
    frame: Frame | None = None


@dataclass(frozen=True)
class Annotation:
    """What is known of a picture: its class, its caption, the file of its condition, its part of the official split."""

    label: str = ""
    caption: str = ""
    condition: str = ""
    split: str = ""


@dataclass(frozen=True)
class Text:
    """What a language model learns; `source` is the file and the row that it is from."""

    source: str
    messages: list[Message]


@dataclass(frozen=True)
class Row:
    """What a dataset's list says of one file; `source` is the list's name, `file` the name in the archive."""

    source: str
    file: str
    label: str
    split: str = ""


@dataclass
class Layout:
    """The annotations by file name, and a reason for each file or row without one."""

    kind: str
    published: Published | None = None
    frame: Frame | None = None
    annotations: dict[str, Annotation] = field(default_factory=dict)
    texts: list[Text] = field(default_factory=list)
    refusals: dict[str, Refusal] = field(default_factory=dict)  # by file name
    bad_rows: list[Refusal] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)
    lists: set[str] = field(default_factory=set)  # files that were read, and are no pictures
    conditions: set[str] = field(default_factory=set)  # pictures that belong to another, which stands for both in the report
    label_maps: set[str] = field(default_factory=set)  # conditions whose grey values are numbers of classes
    _not_read: Counter[str] = field(default_factory=Counter)  # rows by field
    _unlisted: int = 0
    _characters: int = 0

    def add(self, name: str, label: str, split: str = "") -> None:
        """A file of a class, or a reason why its label cannot be used."""
        self.annotate(name, label, Annotation(split=split))

    def annotate(self, name: str, label: str | None, said: Annotation) -> None:
        """What is said of a file, and its class where it has one, or a reason why they cannot be used."""
        problem = caption_problem(said.caption) if said.caption else None
        if label is not None and not (0 < len(label.strip()) <= MAX_LABEL and is_plain(label)):
            self.refuse(name, "invalid_label", f"A class name has 1 to {MAX_LABEL} printable characters; rename the class.")
        elif problem is not None:
            self.refuse(name, *problem)
        else:
            self.annotations[name] = Annotation((label or "").strip(), said.caption, said.condition, said.split)

    def add_text(self, source: str, messages: list[Message]) -> None:
        """Raises DatasetError (`too_many_examples`)."""
        self._characters += sum(len(message["content"]) + len(message.get("input", "")) for message in messages)
        if len(self.texts) == MAX_TEXTS or self._characters > MAX_TEXT_TOTAL:
            raise DatasetError(
                f"The upload holds more than {MAX_TEXTS} examples, or {MAX_TEXT_TOTAL} characters. Split it.",
                code="too_many_examples",
                param="file",
            )
        self.texts.append(Text(source, messages))

    def refuse(self, name: str, code: str, message: str) -> None:
        self.refusals[name] = refusal(name, code, message)

    def refuse_row(self, source: str, number: int, message: str, code: str = "invalid_metadata_row") -> None:
        if len(self.bad_rows) < MAX_LISTED:
            self.bad_rows.append(refusal(f"{source}:{number}", code, message))
        else:
            self._unlisted += 1

    def not_read(self, fields: Iterable[str]) -> None:
        """Fields of a row that mean nothing here; the report names each once."""
        for field_name in fields:
            name = readable(field_name)
            self._not_read[name if name in self._not_read or len(self._not_read) < MAX_FIELDS else "others"] += 1

    def take(self, rows: Iterable[Row], names: Container[str]) -> None:
        """Annotate the files of all rows; the first row counts, and rows without their file become a warning for each list."""
        missing, repeated = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for row in rows:
            if row.file not in names:
                missing[row.source].append(row.file)
            elif row.file in self.annotations:
                repeated[row.source].append(row.file)
            else:
                self.add(row.file, row.label, row.split)
        for source, files in missing.items():
            self.warn("missing_files", f"{source} names {len(files)} files that are not in the archive: {some(files)}")
        for source, files in repeated.items():
            self.warn("duplicate_rows", f"{source} names {len(files)} files for the second time: {some(files)}")

    def warn(self, code: str, message: str) -> None:
        self.warnings.append({"code": code, "message": message})

    def knows(self, name: str) -> bool:
        """Whether the file is annotated, or has a reason for not being, or belongs to another, or is one of the lists."""
        return any(name in known for known in (self.annotations, self.refusals, self.conditions, self.lists))

    def refuse_rest(self, names: Iterable[str]) -> None:
        """A reason for each file that the layout says nothing of, and a warning of the rows that are too many to list."""
        for name in names:
            if not self.knows(name):
                self.refuse(name, "no_metadata_row", f"Nothing in the lists of {self.kind} names this file.")
        if self._not_read:
            named = ", ".join(f"`{name}` ({count} rows)" for name, count in sorted(self._not_read.items()))
            self.warn("unknown_fields", f"These fields of rows are not read: {named}.")
        if self._unlisted:
            self.warn("unlisted_rows", f"{self._unlisted} more rows are refused than the report lists.")


def caption_problem(caption: str) -> tuple[str, str] | None:
    """Why a caption cannot be used, as (code, message)."""
    if not caption.strip():
        return EMPTY_CAPTION
    if len(caption) > MAX_CAPTION:
        return "caption_too_long", f"The caption has {len(caption)} characters; at most {MAX_CAPTION} are allowed. Shorten it."
    if not storable(caption):
        return "invalid_caption", "The caption is no text in UTF-8, or has characters that mean nothing. Write it once more."
    return None


def some(names: list[str]) -> str:
    """The first names, such that PostgreSQL can hold them whatever a list has in it."""
    return ", ".join(f"'{readable(name, MAX_NAME)}'" for name in names[:SHOWN_NAMES]) + (
        ", …" if len(names) > SHOWN_NAMES else ""
    )


def readable(text: str, most: int = 100) -> str:
    """The first characters of a text, with a mark in place of each that cannot be shown."""
    return "".join(character if character.isprintable() else "�" for character in text[:most])


def storable(text: str) -> bool:
    """PostgreSQL's JSON holds neither NUL nor half a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def leftover(name: str) -> tuple[str, str] | None:
    """Why a file is not the user's but an operating system's or a tool's, as (code, message)."""
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts):
        return "hidden", "Names that begin with a dot are hidden files and folders, and left out. Rename it to have it read."
    folders = {part.casefold() for part in path.parts[:-1]}
    if not SYSTEM_FOLDERS.isdisjoint(folders) or path.name.casefold() in SYSTEM_FILES:
        return "system_file", "An operating system or a tool has left this file; it is no picture of yours."
    return None
