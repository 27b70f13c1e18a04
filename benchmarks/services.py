"""The service, or its API alone, started for a benchmark and ended after it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr

from client import Client
from jobstore.embedded import postgres, valkey
from jobstore.embedded.directory import DataDirectory
from jobstore.kit.migrate import upgrade

START_SECONDS = 30.0
STOP_SECONDS = 120


@contextmanager
def running_service(data_dir: Path) -> Iterator[tuple[float, Client, int]]:
    """`difffit up`: the seconds until it was ready, a client of it, and its process id."""
    environment = {
        k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "REDIS_URL"} and not k.startswith("DIFFFIT_")
    }
    command = [sys.executable, "-m", "jobstore.embedded.up", "--data-dir", str(data_dir), "--port", "0", "--json"]
    began = time.monotonic()
    launcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert launcher.stdout is not None
        server = json.loads(launcher.stdout.readline())
        ready = round(time.monotonic() - began, 2)
        with Client(server["url"], server["api_key"]) as client:
            yield ready, client, launcher.pid
    finally:
        launcher.send_signal(signal.SIGINT)
        launcher.wait(STOP_SECONDS)


@dataclass(frozen=True)
class RunningApi:
    """An API without workers."""

    url: str
    pid: int
    database_url: str


@contextmanager
def running_api(key: str, app: str = "api.app:create_app", **settings: str) -> Iterator[RunningApi]:
    """The API on embedded servers in a temporary folder, with the operator's key and settings besides the required ones."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="difffit-benchmark-")))
        directory = stack.enter_context(DataDirectory(folder))
        for server in (valkey, postgres):
            part = server.start(directory)
            stack.callback(part.stop, 10)
            server.wait(part, directory)
        database_url = postgres.url(directory)
        upgrade(database_url, SecretStr(key))
        environment = {"DATABASE_URL": database_url, "REDIS_URL": valkey.url(directory)}
        environment |= {"DIFFFIT_STORAGE_URL": (folder / "files").as_uri()} | settings
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command = [sys.executable, "-m", "uvicorn", app, "--factory"]
        command += ["--http", "api.kit.connections:Connection", "--ws", "none", "--port", port, "--log-level", "error"]
        process = subprocess.Popen(command, env=os.environ | environment)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url)
        yield RunningApi(url, process.pid, database_url)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/readyz", timeout=START_SECONDS).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("The API did not become ready.")


def resident(pid: int, field: str = "VmRSS") -> int:
    """Bytes resident: now (`VmRSS`), or the most so far (`VmHWM`)."""
    return int(Path(f"/proc/{pid}/status").read_text().partition(f"{field}:")[2].split()[0]) * 1024
