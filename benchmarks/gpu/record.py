"""The figures of one section, in a JSON file that is complete after every figure."""

import json
import os
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Record:
    """`figures` is what the file holds; `write` puts it there in one move. Use it in one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures: Row = json.loads(path.read_text()) if path.exists() else {}

    def write(self, **figures: Any) -> None:
        self.figures |= figures
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.figures, indent=1, ensure_ascii=False) + "\n")
        unfinished.rename(self.path)

    def add(self, name: str, row: Row) -> None:
        """One more row of a list of figures."""
        self.figures.setdefault(name, []).append(row)
        self.write()


class Clock:
    """What is left of a section's time."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._ends - time.monotonic()


def scratch() -> Path:
    """The folder that the run has given its sections for what they leave to each other, such as compiled kernels."""
    return Path(os.environ["BENCHMARK_SCRATCH"])
