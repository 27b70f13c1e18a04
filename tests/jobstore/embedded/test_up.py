"""The launcher as a user runs it: everything comes up, stays up, and goes away with it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from tests.jobstore.processes import alive, children, descendants
from tests.waiting import wait_for

ROOT = Path(__file__).parents[3]


@dataclass
class Up:
    process: subprocess.Popen[str]
    url: str
    api_key: str
    messages: Path  # what the launcher says beside its JSON line

    def get(self, path: str) -> int:
        with urlopen(Request(self.url + path, headers={"Authorization": f"Bearer {self.api_key}"}), timeout=10) as answer:
            return int(answer.status)

    def answers(self, path: str) -> bool:
        try:
            return self.get(path) == 200
        except OSError:
            return False

    def worker(self, queue: str) -> int:
        """The pid of a worker's main process."""
        return self.child(f"-Q\0{queue}\0")

    def child(self, words: str) -> int:
        """The pid of the launcher's child whose command line has these words."""
        return next(pid for pid in children(self.process.pid) if words.encode() in command_of(pid))


def command_of(pid: int) -> bytes:
    """Empty of a process that has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def launch(data: Path, port: int = 0) -> list[str]:
    return [sys.executable, "-m", "jobstore.embedded.up", "--data-dir", str(data), "--port", str(port), "--json"]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("DIFFFIT_", "DATABASE_", "REDIS_"))}


@contextmanager
def up(data: Path) -> Iterator[Up]:
    messages = data.with_name("messages")
    with messages.open("w") as errors, ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(launch(data), cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=errors, text=True)
        )
        stack.callback(process.kill)  # no failure may leave it waiting
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, messages.read_text()
        ready = json.loads(line)
        assert ready["data_dir"] == str(data)
        yield Up(process, ready["url"], ready["api_key"], messages)


def test_the_whole_service_comes_up_stays_up_and_stops_in_order(tmp_path: Path) -> None:
    data = tmp_path / "my data"
    with up(data) as service:
        assert service.get("/readyz") == 200
        assert service.get("/jobs") == 200
        assert (data / "api-key").read_text().strip() == service.api_key
        assert (data / "api-key").stat().st_mode & 0o777 == 0o600

        second = subprocess.run(launch(data), cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
        assert second.returncode == 3
        assert str(data) in second.stderr

        heartbeat = data / "heartbeats" / "default"
        killed = service.worker("default")
        seen = heartbeat.stat().st_mtime_ns
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: "worker-default ended" in service.messages.read_text())
        # Its successor begins with a heartbeat file of its own.
        wait_for(lambda: heartbeat.exists() and heartbeat.stat().st_mtime_ns > seen and service.worker("default") != killed)
        assert str(data / "logs" / "worker-default.log") in service.messages.read_text()

        for server in ("postgres", "valkey"):
            os.kill(service.child(f"/{server}"), signal.SIGKILL)
        wait_for(lambda: "postgres ended" in service.messages.read_text() and "valkey ended" in service.messages.read_text())
        wait_for(lambda: service.answers("/readyz"))
        assert service.get("/jobs") == 200

        tree = descendants(service.process.pid)
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(60) == 0
        assert alive(tree) == set()
    said = service.messages.read_text()
    stops = [said.index(f"{part:<15} stopped") for part in ("worker-train", "api", "valkey", "postgres")]
    assert stops == sorted(stops)

    with up(data) as again:
        assert again.api_key == service.api_key
        assert again.get("/jobs") == 200
        tree = descendants(again.process.pid)
        again.process.kill()
    wait_for(lambda: not alive(tree))


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = subprocess.run(
            launch(tmp_path, port), cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
        )
    assert failed.returncode == 1
    assert f"127.0.0.1:{port}" in failed.stderr
    assert "--port" in failed.stderr
