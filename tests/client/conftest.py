"""A whole service of its own for the client's tests, and a way to run commands in this process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.api import Client
from client.cli import main
from client.config import ServerConfig
from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.evaluation.weights import WEIGHTS_FILE, WEIGHTS_MODULE
from tests.difffit_core.evaluation.networks import write_weights

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 90


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


Command = Callable[..., Result]


@dataclass(frozen=True)
class Service:
    """A running `difffit up`."""

    server: ServerConfig
    data_dir: Path


@pytest.fixture(autouse=True)
def _no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this shell's server nor the one of the person who runs the tests is used."""
    monkeypatch.delenv("DIFFFIT_URL", raising=False)
    monkeypatch.delenv("DIFFFIT_API_KEY", raising=False)
    monkeypatch.setattr("client.config.DATA_DIR", tmp_path / "no-data-dir")


@pytest.fixture
def difffit(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `difffit` with the given words."""

    def run(*words: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return Result(int(exit_info.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`difffit up` on a data directory of its own, on any free port."""
    data_dir = tmp_path_factory.mktemp("a service")
    kept = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "REDIS_URL"} and not k.startswith("DIFFFIT_")}
    command = [sys.executable, "-m", "client.cli", "up", "--data-dir", str(data_dir), "--port", "0", "--json"]
    # Threads that wait for each other make tiny batches slow on a busy machine.
    kept |= {"DIFFFIT_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    # What FD-MobileNetV2 is measured with, as if its package were installed.
    packages = tmp_path_factory.mktemp("packages")
    write_weights(MobileNetV2(), packages / WEIGHTS_MODULE / WEIGHTS_FILE)
    (packages / WEIGHTS_MODULE / "__init__.py").touch()
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(packages)])
    launcher = subprocess.Popen(command, env=kept, stdout=subprocess.PIPE, text=True)
    try:
        assert launcher.stdout is not None
        line = launcher.stdout.readline()
        assert line, f"difffit up ended with {launcher.wait()}"
        ready = json.loads(line)
        yield Service(ServerConfig(ready["url"], ready["api_key"]), data_dir)
    finally:
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(STOP_SECONDS) == 0


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.server.url, service.server.api_key) as connected:
        yield connected


@pytest.fixture
def at_service(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Commands of this test talk to the service."""
    monkeypatch.setenv("DIFFFIT_URL", service.server.url)
    monkeypatch.setenv("DIFFFIT_API_KEY", service.server.api_key)
    return service
