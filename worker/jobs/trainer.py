"""The trainer as a child process: one stands by with its imports done, waiting for the folder of the next job."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from jobstore.kit.settings import get_settings
from worker.kit.child import Child, torch_environment

TRAINER = [sys.executable, "-m", "difffit_core.training", "-", "--die-with-parent"]
LOG_BYTES = 4 * 1024**2  # of one attempt, the end of it


class TrainerProcess(Child):
    """A trainer that reads the folder of its job from stdin."""

    def __init__(self, command: list[str]) -> None:
        work_dir = get_settings().work_dir
        work_dir.mkdir(parents=True, exist_ok=True)
        self._log = tempfile.TemporaryFile(dir=work_dir)  # noqa: SIM115  # lives as long as the process
        super().__init__(command, self._log, torch_environment() | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.PIPE)

    def begin(self, spec_dir: Path) -> None:
        """Hand it its job; raises BrokenPipeError where it has died meanwhile."""
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(f"{spec_dir}\n".encode())

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
