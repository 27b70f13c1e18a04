"""Unpacking what users send: every byte and entry is counted, nothing is written under a name that the archive chose."""

import codecs
import gzip
import hashlib
import io
import lzma
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from difffit_core.errors import DatasetError
from jobstore.settings import Settings

Refusal = dict[str, str]  # {file, code, message}
Kind = Literal["file", "folder", "link", "device", "encrypted"]

CHUNK = 1024 * 1024  # bytes
# Below this the unpack ratio says nothing: a tar of a few tiny images compresses well because of its padded headers.
RATIO_FLOOR = 1024 * 1024  # bytes
# A tar reads names and extended headers into memory whole; real ones are far smaller.
MAX_TAR_HEADER = 1024 * 1024  # bytes
TAR_HEADERS = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
MAX_NAME = 1000  # characters
ZIP_NAME_IS_UTF8 = 0x800  # in the flags of an entry
# What the standard library's readers raise on damaged input, beside their own errors.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, ValueError, OverflowError, RuntimeError),
)


def refusal(file: str, code: str, message: str) -> Refusal:
    return {"file": file, "code": code, "message": message}


@dataclass(frozen=True)
class Entry:
    """One member of an archive; `open` reads a regular file's bytes."""

    name: str
    kind: Kind
    open: Callable[[], IO[bytes] | None]


@dataclass(frozen=True)
class UnpackedFile:
    """A regular file: its name in the archive, and its bytes at `path`."""

    name: str
    path: Path
    sha256: str


@dataclass
class Budget:
    """Counts real bytes against the limits; raises DatasetError once they are passed."""

    packed_bytes: int
    settings: Settings
    keep_alive: Callable[[], None]
    spent: int = 0

    def spend(self, count: int) -> None:
        self.keep_alive()
        self.spent += count
        ratio = self.settings.max_unpack_ratio
        if self.spent > max(RATIO_FLOOR, self.packed_bytes * ratio):
            raise DatasetError(
                f"The archive unpacks to more than {ratio:g} times its size. Send images as they are, in an ordinary archive.",
                code="archive_bomb",
                param="file",
            )
        if self.spent > self.settings.max_unpacked_bytes:
            raise DatasetError(
                f"The archive unpacks to more than {self.settings.max_unpacked_bytes} bytes, the most that is allowed. "
                "Send fewer or smaller images.",
                code="dataset_too_large",
                param="file",
            )


def unpack(
    archive: Path, into: Path, settings: Settings, keep_alive: Callable[[], None]
) -> tuple[list[UnpackedFile], list[Refusal]]:
    """Unpack a zip, tar or tar.gz, told apart by content, to numbered files in `into`; refused entries come with a reason.

    JSON is taken as an archive of itself, with a name of ours.
    Raises DatasetError: `empty_archive`, `corrupt_archive`, `archive_bomb`, `dataset_too_large`, `too_many_files`.
    `keep_alive` is called often and may raise to stop the work.
    """
    packed = archive.stat().st_size
    if packed == 0:
        raise _empty()
    budget = Budget(packed, settings, keep_alive)
    files: dict[str, UnpackedFile] = {}
    refused: list[Refusal] = []
    entries = _entries(archive, Budget(packed, settings, keep_alive))
    for number, entry in enumerate(_guarded(entries)):
        if number >= settings.max_archive_files:
            raise DatasetError(
                f"The archive has more than {settings.max_archive_files} entries, the most that is allowed. Send fewer images.",
                code="too_many_files",
                param="file",
            )
        if entry.kind == "folder":
            continue
        name = _readable(entry.name)
        problem = _problem(name, entry, files)
        if problem is None:
            target = into / f"{number:06d}"
            try:
                files[_normal(name)] = UnpackedFile(_normal(name), target, _copy(entry, target, budget))
            except _DamagedEntry as error:
                target.unlink()
                problem = ("damaged_entry", f"The entry cannot be read from the archive ({error}).")
        if problem is not None:
            refused.append(refusal(name[:MAX_NAME], *problem))
    if not files and not refused:
        raise _empty()
    return list(files.values()), refused


class _DamagedEntry(Exception):
    """One entry cannot be read, others may."""


def _empty() -> DatasetError:
    return DatasetError(
        "The upload is empty. Send an archive of images, in one folder for each class, or JSON with texts.",
        code="empty_archive",
        param="file",
    )


def _corrupt(reason: object) -> DatasetError:
    return DatasetError(
        f"The file is neither a readable zip, tar or tar.gz archive nor JSON ({reason}). Pack it again and upload the new one.",
        code="corrupt_archive",
        param="file",
    )


def _guarded(entries: Iterator[Entry]) -> Iterator[Entry]:
    """The same entries, with every sign of damage turned into `corrupt_archive`."""
    try:
        yield from entries
    except DAMAGE as error:
        raise _corrupt(error) from error


def _entries(archive: Path, budget: Budget) -> Iterator[Entry]:
    with archive.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06")):
            yield from _zip_entries(file)
        elif head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield from _tar_entries(io.BufferedReader(_Counted(unzipped, budget), CHUNK))
        elif name := _json_name(head):
            yield Entry(name, "file", lambda: archive.open("rb"))
        else:
            yield from _tar_entries(file)


def _json_name(head: bytes) -> str | None:
    """What to call a file that begins as JSON does; a tar's first block has bytes of zero, and JSON none."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", "ignore").encode()
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    return None if b"\0" in head else {b"[": "upload.json", b"{": "upload.jsonl"}.get(begin)


class _Counted(io.RawIOBase):
    """A reader that spends a budget on everything read, also on what is only skipped."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, budget: Budget) -> None:
        self._file, self._budget = file, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data = self._file.read(len(view))
        self._budget.spend(len(data))
        view[: len(data)] = data
        return len(data)


def _zip_entries(file: IO[bytes]) -> Iterator[Entry]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            yield Entry(_zip_name(info), _zip_kind(info), lambda info=info: archive.open(info))  # type: ignore[misc]


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Some tools, such as macOS's, write names in UTF-8 without the flag that says so; they are then read as code page 437."""
    if info.flag_bits & ZIP_NAME_IS_UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _zip_kind(info: zipfile.ZipInfo) -> Kind:
    if info.is_dir():
        return "folder"
    mode = stat.S_IFMT(info.external_attr >> 16)  # zero where the archive was not made on Unix
    if mode == stat.S_IFLNK:
        return "link"
    if mode not in {0, stat.S_IFREG}:
        return "device"
    return "encrypted" if info.flag_bits & 1 else "file"


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose extended headers may not fill the memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in TAR_HEADERS and self.size > MAX_TAR_HEADER:
            raise tarfile.ReadError("an extended header is too long")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # made to be overridden, says tarfile
        return member


def _tar_entries(file: IO[bytes]) -> Iterator[Entry]:
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_BoundedTarInfo) as archive:
        for info in archive:
            yield Entry(info.name, _tar_kind(info), lambda info=info: archive.extractfile(info))  # type: ignore[misc]
            archive.members = []  # type: ignore[attr-defined]  # a stream never goes back; the list would only grow


def _tar_kind(info: tarfile.TarInfo) -> Kind:
    if info.isdir():
        return "folder"
    if info.issym() or info.islnk():
        return "link"
    return "file" if info.isreg() else "device"


def _readable(name: str) -> str:
    """The name as text that JSON and PostgreSQL can hold, with forward slashes."""
    return normal_text(name.encode("utf-8", "replace").decode().replace("\0", "�").replace("\\", "/"))


def normal_text(name: str) -> str:
    """An é of one character, whether it was one or two: macOS writes two into archives, and lists have one."""
    return unicodedata.normalize("NFC", name)


def _normal(name: str) -> str:
    return str(PurePosixPath(name))


def _problem(name: str, entry: Entry, files: dict[str, UnpackedFile]) -> tuple[str, str] | None:
    """Why an entry is not unpacked, as (code, message)."""
    if entry.kind == "link":
        return "link", "Links are not followed; put the file itself into the archive."
    if entry.kind == "device":
        return "device", "This is no regular file; only image files belong into a dataset."
    if entry.kind == "encrypted":
        return "encrypted", "The entry is encrypted; pack it again without a password."
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "absolute_path", "The path is absolute; pack the images with relative paths."
    if ".." in PurePosixPath(name).parts:
        return "path_outside_archive", "The path climbs out of the archive; pack the images without `..`."
    if not PurePosixPath(name).name or len(name) > MAX_NAME:
        return "invalid_name", f"The name is empty or longer than {MAX_NAME} characters; rename the file."
    if _normal(name) in files:
        return "duplicate_name", "The archive holds another file of this name, which was taken instead."
    return None


def _copy(entry: Entry, target: Path, budget: Budget) -> str:
    """Write the entry's bytes to `target`; returns their SHA-256. Raises _DamagedEntry."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        try:
            source = entry.open()
        except DAMAGE as error:
            raise _DamagedEntry(error) from error
        if source is None:
            raise _DamagedEntry("no data")
        with source:
            while chunk := _read(source):
                budget.spend(len(chunk))
                digest.update(chunk)
                file.write(chunk)
    return digest.hexdigest()


def _read(source: IO[bytes]) -> bytes:
    try:
        return source.read(CHUNK)
    except DAMAGE as error:
        raise _DamagedEntry(error) from error
