"""The faults: a part of the stack is killed, or stopped for longer than a lease, and how long it takes until work goes on."""

import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from benchmarks.chaos.stack import LEASE_SECONDS, Process, Stack, wait_for

PARTS = ("trainer", "supervisor", "generate", "api", "postgres", "valkey")
KINDS = [f"{verb} {part}" for verb in ("kill", "stop") for part in PARTS] + ["wipe valkey"]
STOPPED_SECONDS = LEASE_SECONDS + 3.0
PAUSE = (2.0, 8.0)  # seconds between the recovery from one fault and the next
RECOVERY_SECONDS = 120.0


class Faults:
    """Injects until the time is over. `last_progress` tells when a training step was last seen."""

    def __init__(self, stack: Stack, seed: int, last_progress: Callable[[], float]) -> None:
        self._stack, self._random, self._last_progress = stack, random.Random(seed), last_progress
        self._next: list[str] = []
        self.injected: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.log: list[tuple[float, str, float]] = []  # (when, what, seconds until work went on)

    def run(self, seconds: float, stop: threading.Event) -> None:
        began = time.monotonic()
        while time.monotonic() < began + seconds and not stop.wait(self._random.uniform(*PAUSE)):
            if not self._next:  # every kind once, in another order each time
                self._next = self._random.sample(KINDS, len(KINDS))
            kind = self._next.pop()
            at = time.monotonic()
            if self._inject(kind):
                self.injected[kind] += 1
                over = time.monotonic()
                wait_for(lambda since=over: self._last_progress() > since, RECOVERY_SECONDS)  # type: ignore[misc]
                self.recoveries.append(time.monotonic() - over)
                self.log.append((at - began, kind, self.recoveries[-1]))

    def _inject(self, kind: str) -> bool:
        """False where the part was not running just then."""
        verb, part = kind.split()
        victims = self._victims(part)
        if not victims:
            return False
        if verb == "stop":
            for victim in victims:
                victim.send(signal.SIGSTOP)
            time.sleep(STOPPED_SECONDS)
            for victim in victims:
                victim.send(signal.SIGCONT)
            return True
        if verb == "wipe":  # before it is started again, and so before it can read the files
            shutil.rmtree(self._stack.data_dir / "valkey" / "appendonlydir", ignore_errors=True)
        for victim in victims:
            victim.send(signal.SIGKILL)
        return True

    def _victims(self, part: str) -> list[Process]:
        """One process of a part, with those that stand and fall with it: of PostgreSQL and Valkey the whole server."""
        found = self._stack.find(part)
        if part == "postgres":
            pids = {p.pid for p in found}
            return found + [p for p in self._stack.processes() if p.parent in pids]
        return [self._random.choice(found)] if found else []
