"""Which kind of archive an upload is, told by its content, and its entries."""

import bz2
import codecs
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import zstandard

from difffit_core.errors import DatasetError
from worker.datasets.archives.entry import Entry
from worker.datasets.archives.tar import tar_entries
from worker.datasets.archives.zip import zip_entries

Spend = Callable[[int], None]  # counts bytes, and raises where there are too many

CHUNK = 1024 * 1024  # bytes
# What the standard library's readers raise on damaged input, beside their own errors.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, zstandard.ZstdError),
    *(EOFError, OSError, ValueError, OverflowError, RuntimeError),
)
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06")
TAKEN = "Send .zip, .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst"
# The first bytes of what other packers make, and what people call it.
UNSUPPORTED = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"MSCF": "Windows cabinet",
    b"LZIP": "lzip",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\x1f\x9d": "compress (.Z)",
    b"xar!": "xar",
}


def corrupt(reason: object) -> DatasetError:
    return DatasetError(
        f"The file is neither a readable archive nor JSON ({reason}). {TAKEN}, packed once more.",
        code="corrupt_archive",
        param="file",
    )


def entries(archive: Path, name: str, spend: Spend, max_files: int) -> Iterator[Entry]:
    """The members in their order; `spend` hears of every byte that a compressed tar inflates to.

    Raises DatasetError (`unsupported_archive`, `corrupt_archive`, `too_many_files`) and what is in DAMAGE.
    """
    with archive.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        packed_by = next((packer for mark, packer in UNSUPPORTED.items() if head.startswith(mark)), None)
        if packed_by is not None:
            raise DatasetError(f"{packed_by} archives are not read. {TAKEN}.", code="unsupported_archive", param="file")
        if head.startswith(ZIP):
            yield from zip_entries(file, max_files)
            return
        inflated = _inflated(file, head)
        if inflated is None:
            stream: IO[bytes] = file
        else:
            stream = io.BufferedReader(_Counted(inflated, spend), CHUNK)
            head = stream.peek(512)[:512]
        if suffix := _json_suffix(head):
            yield Entry(_named(name, suffix), "file", lambda: stream)
        else:
            yield from tar_entries(stream)


def _inflated(file: IO[bytes], head: bytes) -> IO[bytes] | None:
    """What is in a compressed file, read in steps of bounded memory; nothing where it is not compressed."""
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]  # a reader in all but name
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return None


class _Counted(io.RawIOBase):
    """A reader that spends a budget on everything read, also on what is only skipped."""

    def __init__(self, file: IO[bytes], spend: Spend) -> None:
        self._file, self._spend = file, spend

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data = self._file.read(len(view))
        self._spend(len(data))
        view[: len(data)] = data
        return len(data)


def _json_suffix(head: bytes) -> str | None:
    """How a file is called that begins as JSON does; a tar's first block has bytes of zero, and JSON none."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", "ignore").encode()
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    return None if b"\0" in head else {b"[": ".json", b"{": ".jsonl"}.get(begin)


def _named(name: str, suffix: str) -> str:
    """The user's name of a file of JSON; with the suffix that it should have, where it has none of the two."""
    name = name.removesuffix(".gz").replace("/", "_").lstrip(".")  # neither in a folder nor hidden
    return name if PurePosixPath(name.lower()).suffix in {".json", ".jsonl"} else f"{name}{suffix}"
