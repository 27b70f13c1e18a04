"""Child processes of a worker: their environment, their end, and the events that they report."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobstore.settings import get_settings
from worker.runtime import child_environment

Event = dict[str, Any]

NICENESS = 10  # training fills every core there is; the API and the servers beside it should still answer at once
# How often torch's threads look for work before they sleep. They look without end by default, and starve each other on a
# machine that does something else too; never looking (0) costs more than half a step again on one that does not.
SPIN_COUNT = "10000"


def torch_environment() -> dict[str, str]:
    """The environment for processes that compute on this worker's device."""
    return {"GOMP_SPINCOUNT": SPIN_COUNT} | child_environment() | {"DIFFFIT_DEVICE": get_settings().device}


@contextlib.contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes what it says to `log`, and that has ended when the `with` block is left."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    os.setpriority(os.PRIO_PROCESS, child.pid, NICENESS)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def read_events(path: Path) -> Iterator[Event | None]:
    """A child's events as they come, and None where there is no new one; a line that is not yet complete waits."""
    while not path.exists():
        yield None
    rest = ""
    with path.open(encoding="utf-8") as file:
        while True:
            *lines, rest = (rest + file.read()).split("\n")
            yield from (json.loads(line) for line in lines)
            if not lines:
                yield None
