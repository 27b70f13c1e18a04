"""The members of a tar, as a stream; neither names nor extended headers nor the maps of sparse files can fill the memory."""

import tarfile
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

from worker.datasets.archives.entry import Entry, Kind

# Names, extended headers and the maps of sparse files are read into memory whole; those of one member are far smaller.
MAX_HEADER = 1024 * 1024  # bytes
# Global headers are copied to every member after them; `git archive` writes one of 52 bytes.
MAX_GLOBAL_HEADERS = 64 * 1024  # bytes, of all together


def tar_entries(file: IO[bytes]) -> Iterator[Entry]:
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_BoundedTarInfo) as archive:
        for info in archive:
            yield Entry(info.name, _kind(info), partial(archive.extractfile, info))
            archive.members = []  # type: ignore[attr-defined]  # a stream never goes back; the list would only grow


def _kind(info: tarfile.TarInfo) -> Kind:
    if info.isdir():
        return "folder"
    if info.issym() or info.islnk():
        return "link"
    return "file" if info.isreg() else "device"


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose headers are read up to a limit."""

    def _proc_member(self, archive: Any) -> tarfile.TarInfo:
        if self.type == tarfile.XGLTYPE:
            archive.global_header_bytes = getattr(archive, "global_header_bytes", 0) + self.size
            if archive.global_header_bytes > MAX_GLOBAL_HEADERS:
                raise tarfile.ReadError("its global headers are too long")
        stream = archive.fileobj
        archive.fileobj = _Headers(stream)
        try:
            member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # made to be overridden, says tarfile
        finally:
            archive.fileobj = stream
        return member


class _Headers:
    """A stream of which no more than MAX_HEADER bytes are read."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left = stream, MAX_HEADER
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError("an extended header is too long")
        data: bytes = self._stream.read(size)
        return data
