"""One member of an archive of any kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Literal

Kind = Literal["file", "folder", "link", "device", "encrypted"]


@dataclass(frozen=True)
class Entry:
    """`open` reads a regular file's bytes in bounded steps; `problem` is a reason not to, as (code, message)."""

    name: str
    kind: Kind
    open: Callable[[], IO[bytes] | None]
    problem: tuple[str, str] | None = None
