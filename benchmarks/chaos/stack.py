"""The stack under test: `difffit up` with short intervals, and its processes as /proc shows them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

LEASE_SECONDS = 6.0
GARBAGE_SECONDS = 15.0
STOP_SECONDS = 120
SETTINGS = {
    "DIFFFIT_LEASE_SECONDS": str(LEASE_SECONDS),
    "DIFFFIT_HEARTBEAT_SECONDS": "0.5",
    "DIFFFIT_SWEEP_SECONDS": "1",
    "DIFFFIT_STOP_GRACE_SECONDS": "30",
    "DIFFFIT_GARBAGE_GRACE_SECONDS": str(GARBAGE_SECONDS),
    "DIFFFIT_MIN_FREE_BYTES": "0",
    # The faults are so many that three attempts would not do; how attempts end is tested elsewhere.
    "DIFFFIT_MAX_ATTEMPTS": "1000",
    "DIFFFIT_DEVICE": "cpu",
    "OMP_NUM_THREADS": "1",
}
TRAINER, TRAIN, GENERATE = "difffit_core.training", "-Q train", "-Q generate"


@dataclass(frozen=True)
class Process:
    """One process of the stack; the start time tells it from a later one with the same pid."""

    pid: int
    parent: int
    command: str
    started: str

    def send(self, number: signal.Signals) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return


@dataclass(frozen=True)
class Stack:
    """A running service."""

    launcher: int
    url: str
    api_key: str
    data_dir: Path

    def processes(self) -> list[Process]:
        """Everything below the launcher."""
        every = running()
        found, parents = [], {self.launcher}
        while below := [p for p in every if p.parent in parents and p not in found]:
            found += below
            parents = {p.pid for p in below}
        return found

    def find(self, part: str) -> list[Process]:
        """The processes of a part: trainer, supervisor, generate, api, postgres or valkey."""
        every = self.processes()
        mains = {p.pid for p in every if p.parent == self.launcher}
        tests: dict[str, Callable[[Process], bool]] = {
            "trainer": lambda p: TRAINER in p.command,
            "supervisor": lambda p: TRAIN in p.command,
            "generate": lambda p: GENERATE in p.command,
            "api": lambda p: " -m api " in p.command,
            "postgres": lambda p: p.pid in mains and "/postgres" in p.command,
            "valkey": lambda p: p.pid in mains and "valkey" in p.command,
        }
        return [p for p in every if tests[part](p)]

    def answers(self) -> bool:
        """Whether the API is there and reaches its database, broker and store."""
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_stack(data_dir: Path) -> Iterator[Stack]:
    """`difffit up` on a data directory of its own and any free port; stopped as a person does with Ctrl-C."""
    kept = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "REDIS_URL"} and not k.startswith("DIFFFIT_")}
    command = [sys.executable, "-m", "jobstore.embedded.up", "--data-dir", str(data_dir), "--port", "0", "--json"]
    with (data_dir.parent / "launcher.log").open("w") as log:
        process = subprocess.Popen(command, env=kept | SETTINGS, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield Stack(process.pid, ready["url"], ready["api_key"], data_dir)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()


def running() -> list[Process]:
    """Every process of this machine that is not a zombie; see proc(5), `stat`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended since
        state, parent, *fields = stat.rpartition(")")[2].split()
        if state != "Z":
            found.append(
                Process(int(folder.name), int(parent), command.replace(b"\0", b" ").decode(errors="replace"), fields[17])
            )
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
