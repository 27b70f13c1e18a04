"""Child processes of a worker: their environment, their end, and the events that they report."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jobstore.kit.settings import get_settings
from worker.kit.runtime import child_environment

Event = dict[str, Any]

NICENESS = 10  # training fills every core there is; the API and the servers beside it should still answer at once
# How often torch's threads look for work before they sleep. They look without end by default, and starve each other on a
# machine that does something else too; never looking (0) costs more than half a step again on one that does not.
SPIN_COUNT = "10000"


def torch_environment() -> dict[str, str]:
    """The environment for processes that compute on this worker's device."""
    return {"GOMP_SPINCOUNT": SPIN_COUNT} | child_environment() | {"DIFFFIT_DEVICE": get_settings().device}


class Child:
    """A process that leads a process group of its own. Only `kill` reaps it: until then nobody else can have its id.

    Start it in the main thread where it is to die with its parent: the kernel ends it when the thread that started it ends.
    """

    def __init__(self, command: list[str], output: IO[bytes], environment: dict[str, str], stdin: int | None = None) -> None:
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)

    def exit_status(self) -> int | None:
        """None while it runs, its exit status afterwards (negative: the signal that ended it)."""
        if self.process.returncode is not None:
            return self.process.returncode
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def terminate(self) -> None:
        """Ask it to end."""
        if self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything that it started in its group, at once; also what it has left behind."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[Child]:
    """A process that writes what it says to `log`, and that has ended with all it started when the `with` block is left."""
    with log.open("wb") as output:
        child = Child(command, output, environment)
    try:
        yield child
    finally:
        child.kill()


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
