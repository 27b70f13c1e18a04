"""Child processes: what they start ends with them, and no signal goes to an id that may be another's by now."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_for
from worker.kit.child import Child, running

LEAVES_ONE_BEHIND = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
"""


def left_behind(log: Path) -> int:
    return int(wait_for(lambda: log.read_text().endswith("\n") and log.read_text()))


def test_what_a_child_left_behind_ends_with_the_block(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running([sys.executable, "-c", LEAVES_ONE_BEHIND], log, dict(os.environ)) as child:
        wait_for(lambda: child.exit_status() is not None)
        other = left_behind(log)
        os.kill(other, 0)
    assert child.exit_status() == 0
    wait_for(lambda: not exists(other))


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("ending", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -9), ("", 0)])
def test_a_child_keeps_its_id_until_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, status: int
) -> None:
    """It is looked at without being reaped; afterwards nothing is sent to that id, which may be another's."""
    with (tmp_path / "log").open("wb") as log:
        child = Child([sys.executable, "-c", f"import os, signal, sys; {ending}"], log, dict(os.environ))
    wait_for(lambda: child.exit_status() is not None)
    assert child.exit_status() == status
    assert Path(f"/proc/{child.process.pid}").exists()
    child.terminate()
    child.kill()
    assert not Path(f"/proc/{child.process.pid}").exists()
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))
    monkeypatch.setattr(os, "killpg", lambda *what: sent.append(what))
    child.terminate()
    child.kill()
    assert sent == []
    assert child.exit_status() == status


def test_a_child_is_asked_to_end(tmp_path: Path) -> None:
    with running([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log", dict(os.environ)) as child:
        assert child.exit_status() is None
        child.terminate()
        wait_for(lambda: child.exit_status() is not None)
    assert child.exit_status() == -signal.SIGTERM
