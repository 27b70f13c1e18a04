"""The members of a zip. Its directory is counted before it is read, and every method inflates in bounded steps."""

import bz2
import copy
import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

import zstandard

from difffit_core.errors import DatasetError
from worker.datasets.archives.entry import Entry, Kind

NAME_IS_UTF8 = 0x800  # in the flags of an entry
ZSTANDARD = 93  # a method that zipfile knows from Python 3.14 on
METHODS = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "Deflate",
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "LZMA",
    ZSTANDARD: "Zstandard",
}
OTHER_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 10: "IBM TERSE", 95: "XZ", 96: "JPEG", 97: "WavPack", 98: "PPMd"}
# The directory is read whole. Real names have a few dozen bytes.
DIRECTORY_BYTES_PER_FILE = 1024
HEADER_BYTES, SIGNATURE = 46, b"PK\x01\x02"  # of an entry in the directory, before its name
ZIP64_RECORDS = 76  # bytes of the two records that lie between the directory and its end record in the long form
# More than the largest preset of 7-Zip and xz asks for. A dictionary is allocated before the first byte is inflated.
MAX_DICTIONARY = 128 * 1024**2


def zip_entries(file: IO[bytes], max_files: int) -> Iterator[Entry]:
    """Raises DatasetError (`too_many_files`) before the directory is in memory, and what zipfile does on damage."""
    _check_directory(file, max_files)
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            yield Entry(_name(info), _kind(info), partial(_open, archive, info), _method_problem(info))


def too_many(files: int) -> DatasetError:
    return DatasetError(
        f"The archive has more than {files} entries, the most that is allowed. Send fewer images.",
        code="too_many_files",
        param="file",
    )


def _check_directory(file: IO[bytes], max_files: int) -> None:
    """Count the entries one by one: the end record's own count and zipfile, which reads on to its size, need not agree."""
    end: list[Any] | None = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # reads both forms; has no public name
    if end is None:
        raise zipfile.BadZipFile("there is no end of a zip's directory in it")
    signature, _, _, _, count, size = end[:6]
    position = end[9] - size - (ZIP64_RECORDS if signature == b"PK\x06\x06" else 0)
    if count > max_files or size > max(1, max_files) * DIRECTORY_BYTES_PER_FILE:
        raise too_many(max_files)
    stop, found = position + size, 0
    while position < stop and found <= max_files:
        file.seek(max(0, position))
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or not header.startswith(SIGNATURE):
            break  # zipfile says what is wrong
        position += HEADER_BYTES + sum(struct.unpack("<HHH", header[28:34]))
        found += 1
    if found > max_files:
        raise too_many(max_files)


def _name(info: zipfile.ZipInfo) -> str:
    """Some tools, such as macOS's, write names in UTF-8 without the flag that says so; they are then read as code page 437."""
    if info.flag_bits & NAME_IS_UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _kind(info: zipfile.ZipInfo) -> Kind:
    if info.is_dir() or info.filename.endswith("\\"):  # as old packers on Windows write folders
        return "folder"
    mode = stat.S_IFMT(info.external_attr >> 16)  # zero where the archive was not made on Unix
    if mode == stat.S_IFLNK:
        return "link"
    if mode not in {0, stat.S_IFREG}:
        return "device"
    return "encrypted" if info.flag_bits & 1 else "file"


def _method_problem(info: zipfile.ZipInfo) -> tuple[str, str] | None:
    if info.compress_type in METHODS:
        return None
    name = OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
    return (
        "unsupported_compression",
        f"The entry is compressed by {name}, which is not read. Pack it again with one of {', '.join(METHODS.values())}, or as "
        ".tar.gz.",
    )


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """zipfile inflates Deflate in bounded steps, and each 4096 bytes of the other methods whole: these are inflated here."""
    if info.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return archive.open(info)
    raw = copy.copy(info)
    raw.compress_type, raw.file_size = zipfile.ZIP_STORED, info.compress_size
    del raw.CRC  # that of the inflated bytes
    packed = archive.open(raw)
    if info.compress_type == zipfile.ZIP_BZIP2:
        inflated: IO[bytes] = bz2.BZ2File(packed)
    elif info.compress_type == ZSTANDARD:
        inflated = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    else:
        inflated = lzma.LZMAFile(packed, format=lzma.FORMAT_RAW, filters=[_lzma_filter(packed, info.file_size)])  # noqa: SIM115
    return io.BufferedReader(_Checked(inflated, info))


def _lzma_filter(packed: IO[bytes], file_size: int) -> dict[str, Any]:
    """The properties that lie before the bytes of an LZMA entry, see APPNOTE.TXT 5.8; no dictionary is longer than the file."""
    _, _, length = struct.unpack("<BBH", packed.read(4))
    properties, dictionary = struct.unpack("<BI", packed.read(length)[:5])
    dictionary = min(dictionary, max(4096, file_size))
    if dictionary > MAX_DICTIONARY:
        raise zipfile.BadZipFile(f"its LZMA dictionary has {dictionary} bytes; at most {MAX_DICTIONARY} are allowed")
    rest, literal_bits = divmod(properties, 9)
    position_bits, literal_position_bits = divmod(rest, 5)
    return {
        "id": lzma.FILTER_LZMA1,
        "dict_size": dictionary,
        "lc": literal_bits,
        "lp": literal_position_bits,
        "pb": position_bits,
    }


class _Checked(io.RawIOBase):
    """The bytes of an entry up to its declared size, which have to have its checksum."""

    def __init__(self, file: IO[bytes], info: zipfile.ZipInfo) -> None:
        self._file, self._left, self._expected, self._checksum = file, info.file_size, info.CRC, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data = self._file.read(min(len(view), self._left)) if self._left else b""
        self._checksum = zlib.crc32(data, self._checksum)
        self._left -= len(data)
        if not data and self._left:
            raise EOFError("it is shorter than the directory says")
        if not data and self._checksum != self._expected:
            raise zipfile.BadZipFile("its checksum is another than the directory says")
        view[: len(data)] = data
        return len(data)
