"""Unpacking what users send, in a process that has little memory and can do nothing else; see `archive_unpacking`."""

import contextlib
import errno
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difffit_core.errors import DatasetError
from worker.kit.confined import died_of_time, environment

if TYPE_CHECKING:
    from jobstore.kit.settings import Settings  # the process that unpacks has none, and starts the faster

Refusal = dict[str, str]  # {file, code, message}

MAX_NAME = 1000  # characters
# Below this the unpack ratio says nothing: a tar of a few tiny images compresses well because of its padded headers.
RATIO_FLOOR = 1024 * 1024  # bytes
LOOK_SECONDS = 0.2  # between two looks at the process and at the lease
RESULTS = "unpacked.jsonl"  # beside the folder of the files


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to: bytes, bytes of each byte that it has, entries."""

    unpacked_bytes: int
    ratio: float
    files: int

    def most_bytes(self, packed_bytes: int) -> int:
        return int(min(self.unpacked_bytes, max(RATIO_FLOOR, packed_bytes * self.ratio)))


@dataclass(frozen=True)
class UnpackedFile:
    """A regular file: its name in the archive, and its bytes at `path`."""

    name: str
    path: Path
    sha256: str


def refusal(file: str, code: str, message: str) -> Refusal:
    return {"file": file, "code": code, "message": message}


def normal_text(name: str) -> str:
    """An é of one character, whether it was one or two: macOS writes two into archives, and lists have one."""
    return unicodedata.normalize("NFC", name)


def unpack(
    archive: Path, into: Path, settings: "Settings", keep_alive: Callable[[], None], name: str = "upload"
) -> tuple[list[UnpackedFile], list[Refusal]]:
    """Unpack a zip, or a tar as it is or compressed, to numbered files in `into`; refused entries come with a reason.

    JSON is taken as an archive of itself; `name` is what the user calls the upload.
    Raises DatasetError: `empty_archive`, `corrupt_archive`, `unsupported_archive`, `archive_bomb`, `dataset_too_large`,
    `too_many_files`, `too_slow`; and OSError where the disk has no room.
    `keep_alive` is called often and may raise to stop the work.
    """
    limits = Limits(settings.max_unpacked_bytes, settings.max_unpack_ratio, settings.max_archive_files)
    asked = {"archive": str(archive), "into": str(into), "name": name, "limits": asdict(limits)}
    results = into.with_name(RESULTS)
    command = [sys.executable, "-m", "worker.datasets.archives.unpacking", json.dumps(asked)]
    with (
        results.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, env=environment()) as process,
    ):
        try:
            while process.poll() is None:
                keep_alive()
                _wait(process)
        finally:
            process.kill()
    said = results.read_text()
    results.unlink()
    if process.returncode == errno.ENOSPC:
        raise OSError(errno.ENOSPC, "The disk is full")
    try:
        return _read([json.loads(line) for line in said.splitlines()], into)
    except (ValueError, TypeError, KeyError, IndexError) as error:  # nothing that a process says which came to its end
        raise _death(process.returncode) from error


def _wait(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LOOK_SECONDS)


def _read(rows: list[dict[str, Any]], into: Path) -> tuple[list[UnpackedFile], list[Refusal]]:
    """What the process found; its last row says how it ended."""
    ending = rows.pop()
    if ending["code"] is not None:
        raise DatasetError(ending["message"], code=ending["code"], param="file")
    files = [UnpackedFile(row["name"], into / f"{int(row['number']):06d}", row["sha256"]) for row in rows if "number" in row]
    return files, [refusal(row["file"], row["code"], row["message"]) for row in rows if "file" in row]


def _death(status: int) -> DatasetError:
    if died_of_time(status):
        return DatasetError(
            "Unpacking the archive takes longer than any that is packed as usual. Pack it again, or split it.",
            code="too_slow",
            param="file",
        )
    return DatasetError(
        f"The archive made its reader fail (exit status {status}), as one does that needs too much memory. "
        "Pack the files again, in an ordinary zip or tar.",
        code="archive_bomb",
        param="file",
    )
