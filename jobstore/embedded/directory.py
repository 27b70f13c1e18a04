"""The data directory of embedded servers: its layout, its locks, and a folder for sockets whose paths are short enough."""

import fcntl
import hashlib
import os
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from jobstore.embedded.process import POLL_SECONDS
from jobstore.kit.errors import EmbeddedServerError

LONGEST_SOCKET_PATH = 107  # bytes; sun_path of unix(7) less its final zero
LONGEST_SOCKET_NAME = ".s.PGSQL.5432"
LEFTOVERS_SECONDS = 30.0  # how long processes of a killed launcher may take to end


class DataDirectory:
    """`with DataDirectory(path) as directory:` holds the directory for this process alone.

    Raises EmbeddedServerError (`data_directory_in_use`) where another launcher holds it. A second lock is inherited by the
    children: once it is free no process of a launcher that was killed is left, and stale pid files may be removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.logs = self.path / "logs"
        self.children_lock = -1

    def __enter__(self) -> Self:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        self._launcher_lock = _open_lock(self.path / "lock")
        if not _try_lock(self._launcher_lock):
            os.close(self._launcher_lock)
            raise EmbeddedServerError(
                f"Another `difffit up` uses the data directory {self.path}. Stop it first, or give another --data-dir.",
                code="data_directory_in_use",
            )
        self.children_lock = _open_lock(self.path / "children.lock")
        deadline = time.monotonic() + LEFTOVERS_SECONDS
        while not _try_lock(self.children_lock):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"A process of an earlier run still uses the data directory {self.path}; end it first."
                )
            time.sleep(POLL_SECONDS)
        self.sockets = _socket_folder(self.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self.children_lock)
        os.close(self._launcher_lock)

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _socket_folder(data: Path) -> Path:
    """`<data>/run`, or where that is too long a private folder below the runtime directory or /tmp, the same at every start."""
    name = f"difffit-{os.getuid()}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    candidates = [data / "run", *([Path(runtime) / name] if runtime else []), Path("/tmp") / name]
    folder = next(c for c in candidates if len(os.fsencode(c / LONGEST_SOCKET_NAME)) <= LONGEST_SOCKET_PATH)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # Whoever can enter the folder can use the servers, and everybody can make a folder below /tmp.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EmbeddedServerError(f"{folder} must be a folder that only this user can enter; remove it and start again.")
    return folder
