"""What a confined process can no longer do, whatever the bytes that it reads make of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.kit.confined import environment

TRIES = """
import json, os, socket, subprocess, sys
from pathlib import Path
from worker.kit.confined import confine

folder, other, parent = sys.argv[1:]
confine(256 * 1024**2, writes=[Path(folder)], seconds=60)


def outcome(action):
    try:
        action()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "done"


tries = {
    "read its folder": lambda: Path(folder, "upload").read_bytes(),
    "write to its folder": lambda: Path(folder, "made").write_bytes(b"x"),
    "load a module": lambda: __import__("wave"),
    "read another folder": lambda: Path(other, "secret").read_bytes(),
    "write to another folder": lambda: Path(other, "made").write_bytes(b"x"),
    "read the parent's environment": lambda: Path("/proc", parent, "environ").read_bytes(),
    "open a socket": lambda: socket.socket(socket.AF_INET),
    "reach a server on this machine": lambda: socket.socket(socket.AF_UNIX),
    "run a program": lambda: subprocess.run(["/bin/true"], check=False),
    "take memory": lambda: bytes(512 * 1024**2),
}
print(json.dumps({name: outcome(action) for name, action in tries.items()}))
"""


def test_a_confined_process_reads_its_folder_and_no_more(tmp_path: Path) -> None:
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "own" / "upload").write_bytes(b"x")
    (tmp_path / "other" / "secret").write_bytes(b"x")
    command = [sys.executable, "-c", TRIES, str(tmp_path / "own"), str(tmp_path / "other"), str(os.getpid())]
    ended = subprocess.run(command, capture_output=True, check=True, env=environment())
    assert json.loads(ended.stdout) == {
        "read its folder": "done",
        "write to its folder": "done",
        "load a module": "done",
        "read another folder": "PermissionError",
        "write to another folder": "PermissionError",
        "read the parent's environment": "PermissionError",
        "open a socket": "PermissionError",
        "reach a server on this machine": "PermissionError",
        "run a program": "PermissionError",
        "take memory": "MemoryError",
    }


def test_it_is_told_nothing_that_is_not_on_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD", "SOMETHING_NEW"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert "hidden" not in environment().values()
    assert environment()["LANG"] == "C.UTF-8"
