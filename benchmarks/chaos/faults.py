"""The faults: a part of the stack is killed, stopped or loses its data; a checkpoint is damaged."""

import random
import shutil
import signal
import time
from collections import Counter

from benchmarks.chaos.stack import LEASE_SECONDS, Process, Stack

PARTS = ("trainer", "supervisor", "generate", "api", "postgres", "valkey")
DAMAGES = ("cut", "garble", "remove")  # what befalls the newest checkpoint, just before its trainer is killed
LONGEST = "hang postgres"
KINDS = [f"{verb} {part}" for verb in ("kill", "stop") for part in PARTS] + ["wipe valkey", LONGEST]
KINDS += [f"{verb} checkpoint" for verb in DAMAGES]
STOPPED_SECONDS = {
    "stop": LEASE_SECONDS + 3.0,  # whoever has a lease loses it
    "hang": 40.0,  # longer than any request may wait, and than PostgreSQL lets a transaction idle
}
PAUSE = (1.0, 7.0)  # seconds between a fault and the next, which may come before work goes on: all kinds fit into three minutes


class Faults:
    """Injects until the time is over."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack, self._random = stack, random.Random(seed)
        self._next: list[str] = []
        self.injected: list[tuple[str, float]] = []  # what, and when it was over (time.monotonic)
        self.removed: set[str] = set()  # the keys of objects that are gone

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self._random.uniform(*PAUSE))
            if not self._next:
                self._next = round_of(self._random)
            kind = self._next.pop(0)
            if self._inject(kind):
                self.injected.append((kind, time.monotonic()))
            else:
                self._next.insert(1, kind)  # another first

    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(kind for kind, _ in self.injected).items()))

    def recoveries(self, progress: list[float]) -> list[float]:
        """Seconds from the end of each fault to the next training step that was seen; `progress` has the times of all."""
        after = [min((at for at in progress if at > over), default=None) for _, over in self.injected]
        return [at - over for at, (_, over) in zip(after, self.injected, strict=True) if at is not None]

    def _inject(self, kind: str) -> bool:
        """False where the part was not running just then."""
        verb, part = kind.split()
        victims = self._victims("trainer" if verb in DAMAGES else part)
        if not victims or (verb in DAMAGES and not self._damage(verb)):
            return False
        if verb in STOPPED_SECONDS:
            for victim in victims:
                victim.send(signal.SIGSTOP)
            time.sleep(STOPPED_SECONDS[verb])
            for victim in victims:
                victim.send(signal.SIGCONT)
            return True
        if verb == "wipe":  # before it is started again, and so before it can read the files
            shutil.rmtree(self._stack.data_dir / "valkey" / "appendonlydir", ignore_errors=True)
        for victim in victims:
            victim.send(signal.SIGKILL)
        return True

    def _damage(self, verb: str) -> bool:
        """Whether there was a checkpoint to do it to."""
        files = self._stack.data_dir / "files"
        found = {path: path.stat().st_mtime for path in files.glob("jobs/*/*/checkpoints/*.tar")}
        if not found:
            return False
        newest = max(found, key=found.__getitem__)
        content = newest.read_bytes()
        middle = len(content) // 2
        match verb:
            case "cut":
                newest.write_bytes(content[:middle])
            case "garble":
                newest.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
            case _:
                newest.unlink()
                self.removed.add(str(newest.relative_to(files)))
        return True

    def _victims(self, part: str) -> list[Process]:
        """One process of a part, with those that stand and fall with it: of PostgreSQL and Valkey the whole server."""
        found = self._stack.find(part)
        if part == "postgres":
            pids = {p.pid for p in found}
            return found + [p for p in self._stack.processes() if p.parent in pids]
        return [self._random.choice(found)] if found else []


def round_of(draw: random.Random) -> list[str]:
    """Every kind once, in another order each time; the longest in the first half, so that there is time for it."""
    kinds = draw.sample(KINDS, len(KINDS))
    kinds.remove(LONGEST)
    kinds.insert(draw.randrange(len(KINDS) // 2), LONGEST)
    return kinds
