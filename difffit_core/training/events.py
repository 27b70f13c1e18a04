"""The trainer's only voice: one JSON object a line, appended to `events.jsonl` and flushed."""

import json
import math
import time
from pathlib import Path


class EventLog:
    """Appends events to a file; another process may read it while it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def emit(self, type: str, **data: object) -> None:
        """Write `{"type", "time" (unix seconds), ...data}`; floats that are not numbers become null."""
        clean = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in data.items()}
        self._file.write(json.dumps({"type": type, "time": round(time.time(), 3)} | clean, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
