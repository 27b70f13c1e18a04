"""The trainer as a child process: one stands by with its imports done, waiting for the folder of the next job."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from jobstore.settings import get_settings
from worker.child import NICENESS, torch_environment

TRAINER = [sys.executable, "-m", "difffit_core.train", "-", "--die-with-parent"]
LOG_BYTES = 4 * 1024**2  # of one attempt, the end of it


class TrainerProcess:
    """A trainer that reads the folder of its job from stdin. It leads a process group of its own.

    Start it in the main thread: the kernel ends the child when the thread that started it ends.
    """

    def __init__(self, command: list[str]) -> None:
        work_dir = get_settings().work_dir
        work_dir.mkdir(parents=True, exist_ok=True)
        self._log = tempfile.TemporaryFile(dir=work_dir)  # noqa: SIM115  # lives as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=torch_environment() | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)

    def begin(self, spec_dir: Path) -> None:
        """Hand it its job; raises BrokenPipeError where it has died meanwhile."""
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(f"{spec_dir}\n".encode())

    def exit_status(self) -> int | None:
        """None while it runs, its exit status afterwards (negative: the signal that ended it)."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to finish its step, to write a checkpoint and to exit."""
        if self.exit_status() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def log(self) -> bytes:
        """The end of what it wrote to stdout and stderr."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), LOG_BYTES, max(0, size - LOG_BYTES))


class Standby:
    """Keeps one trainer started, so that a job begins without waiting for its imports."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._waiting: TrainerProcess | None = None

    def prepare(self) -> None:
        """Start the next trainer, if none is waiting."""
        if self._waiting is None or self._waiting.exit_status() is not None:
            self._waiting = TrainerProcess(self._command)

    def begin(self, spec_dir: Path) -> TrainerProcess:
        """Give the job to the waiting trainer, or to a fresh one where there is none or it has died."""
        trainer, self._waiting = self._waiting, None
        if trainer is not None:
            try:
                trainer.begin(spec_dir)
            except BrokenPipeError:
                trainer.kill()
            else:
                return trainer
        trainer = TrainerProcess(self._command)
        trainer.begin(spec_dir)
        return trainer

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.kill()
            self._waiting = None
