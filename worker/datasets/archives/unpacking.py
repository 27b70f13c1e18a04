"""A process that unpacks an untrusted archive: every byte and entry is counted, nothing is written under a name of its own.

It runs as `python -m worker.datasets.archives.unpacking ASKED`, with {"archive", "into", "name", "limits"} as JSON. A line is
{"name", "number", "sha256"} of a file in `into`, or {"file", "code", "message"} of an entry that is refused; the last line is
{"code", "message"} of what ended it, null where all is well.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from difffit_core.errors import DatasetError
from worker.datasets.archives.archives import MAX_NAME, RATIO_FLOOR, Limits, normal_text, refusal
from worker.datasets.archives.entry import Entry
from worker.datasets.archives.formats import CHUNK, DAMAGE, corrupt, entries
from worker.datasets.archives.zip import DIRECTORY_BYTES_PER_FILE, too_many
from worker.kit.confined import confine

PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>
BASE_MEMORY = 384 * 1024**2  # bytes of address space: the interpreter, and the largest dictionary of a decompressor
MEMORY_PER_FILE = DIRECTORY_BYTES_PER_FILE + 2048  # bytes: an entry in a zip's directory, as it is and read, and in the results
BASE_SECONDS, BYTES_PER_SECOND = 60, 8 * 1024**2  # of computing; the slowest method, bzip2, inflates thrice as much in one


def main(asked: dict[str, Any]) -> None:
    archive, into, limits = Path(asked["archive"]), Path(asked["into"]), Limits(**asked["limits"])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    seconds = BASE_SECONDS + limits.most_bytes(archive.stat().st_size) // BYTES_PER_SECOND
    confine(BASE_MEMORY + MEMORY_PER_FILE * limits.files, reads=[archive], writes=[into], seconds=seconds)
    try:
        try:
            unpack_here(archive, into, asked["name"], limits)
            _say(code=None, message=None)
        except DatasetError as error:
            _say(code=error.code, message=error.message)
        except MemoryError:
            _say(code="archive_bomb", message="Unpacking the archive takes too much memory. Pack it again with usual settings.")
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os._exit(errno.ENOSPC)  # there is no room to say more


def _say(**row: object) -> None:
    sys.stdout.write(json.dumps(row) + "\n")


@dataclass
class Budget:
    """Counts real bytes against the limits; raises DatasetError once they are passed."""

    packed_bytes: int
    limits: Limits
    spent: int = 0

    def spend(self, count: int) -> None:
        self.spent += count
        ratio = self.limits.ratio
        if self.spent > max(RATIO_FLOOR, self.packed_bytes * ratio):
            raise DatasetError(
                f"The archive unpacks to more than {ratio:g} times its size. Send images as they are, in an ordinary archive.",
                code="archive_bomb",
            )
        if self.spent > self.limits.unpacked_bytes:
            raise DatasetError(
                f"The archive unpacks to more than {self.limits.unpacked_bytes} bytes, the most that is allowed. "
                "Send fewer or smaller images.",
                code="dataset_too_large",
            )


def unpack_here(archive: Path, into: Path, name: str, limits: Limits) -> None:
    """Write the files and say what became of each entry; raises as `worker.datasets.archives.archives.unpack` does."""
    packed = archive.stat().st_size
    if packed == 0:
        raise _empty()
    budget, taken, nothing = Budget(packed, limits), set[str](), True
    for number, entry in enumerate(_guarded(entries(archive, name, Budget(packed, limits).spend, limits.files))):
        if number >= limits.files:
            raise too_many(limits.files)
        if entry.kind == "folder":
            continue
        readable, nothing = _readable(entry.name), False
        problem = _problem(readable, entry, taken) or entry.problem
        if problem is None:
            target = into / f"{number:06d}"
            try:
                sha256 = _copy(entry, target, budget)
                taken.add(_normal(readable))
                _say(name=_normal(readable), number=number, sha256=sha256)
            except _DamagedEntry as error:
                target.unlink()
                problem = ("damaged_entry", f"The entry cannot be read from the archive ({error}).")
        if problem is not None:
            _say(**refusal(readable[:MAX_NAME], *problem))
    if nothing:
        raise _empty()


class _DamagedEntry(Exception):
    """One entry cannot be read, others may."""


def _empty() -> DatasetError:
    return DatasetError(
        "The upload is empty. Send an archive of images, in one folder for each class, or JSON with texts.",
        code="empty_archive",
    )


def _guarded(found: Iterator[Entry]) -> Iterator[Entry]:
    """The same entries, with every sign of damage turned into `corrupt_archive`."""
    try:
        yield from found
    except DAMAGE as error:
        raise corrupt(error) from error


def _readable(name: str) -> str:
    """The name as text that JSON and PostgreSQL can hold, with forward slashes."""
    return normal_text(name.encode("utf-8", "replace").decode().replace("\0", "�").replace("\\", "/"))


def _normal(name: str) -> str:
    return str(PurePosixPath(name))


def _problem(name: str, entry: Entry, taken: set[str]) -> tuple[str, str] | None:
    """Why an entry is not unpacked, as (code, message)."""
    if entry.kind == "link":
        return "link", "Links are not followed; put the file itself into the archive."
    if entry.kind == "device":
        return "device", "This is no regular file; only image files belong into a dataset."
    if entry.kind == "encrypted":
        return "encrypted", "The entry is encrypted; pack it again without a password."
    if name.startswith("/") or re.match(r"[A-Za-z]:/", name):
        return "absolute_path", "The path begins with a slash or a drive's letter; pack the images with relative paths."
    if ".." in PurePosixPath(name).parts:
        return "path_outside_archive", "The path climbs out of the archive; pack the images without `..`."
    if not PurePosixPath(name).name or len(name) > MAX_NAME:
        return "invalid_name", f"The name is empty or longer than {MAX_NAME} characters; rename the file."
    if _normal(name) in taken:
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


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
