"""The parts of the service on one machine: started in order, kept up, and stopped in the opposite order."""

import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from pydantic import SecretStr

from jobstore.embedded import postgres, process, valkey
from jobstore.embedded.directory import DataDirectory
from jobstore.embedded.process import POLL_SECONDS, Part
from jobstore.migrate import upgrade
from jobstore.settings import MINIMUM_KEY_LENGTH, get_settings

QUEUES = ("train", "generate", "default")

READY_SECONDS = 120.0  # importing torch from a cold disk on a busy machine included
SERVER_GRACE_SECONDS = 30.0
WORKER_GRACE_MARGIN_SECONDS = 15.0  # on top of the trainer's grace period, to save what it left
FORGET_DEATHS_SECONDS = 120.0
MOST_DEATHS = 5  # of one part in that time; after that, starting it once more will not help


@dataclass
class Service:
    """The API or a worker: a part that is started again when it dies."""

    name: str
    command: list[str]
    environment: dict[str, str]
    is_ready: Callable[[], bool]
    part: Part
    deaths: list[float] = field(default_factory=list)
    restart_at: float | None = None


class Launcher:
    """`say` gets one line for everything that happens. Use it in the main thread only: see `process.start`."""

    def __init__(self, directory: DataDirectory, host: str, port: int, say: Callable[[str], None]) -> None:
        self.directory, self.host, self.port, self.say = directory, host, port, say
        self.url = f"http://{host}:{port}"
        self.began = time.monotonic()
        self.servers: list[Part] = []
        self.services: list[Service] = []

    def start(self) -> str:
        """Start everything and wait until it is ready; returns the API key. Raises EmbeddedServerError."""
        self._start_servers()
        key = os.environ.get("DIFFFIT_API_KEY") or _kept_key(self.directory.path / "api-key")
        settings = get_settings()
        upgrade(settings.database_url.get_secret_value(), SecretStr(key))
        self._up("migrations")
        self._start_services()
        (self.directory.path / "url").write_text(self.url + "\n")  # where the client looks for the server of this machine
        return key

    def _start_servers(self) -> None:
        """Start Valkey and PostgreSQL together, and complete the environment that all other parts inherit."""
        waits: list[Callable[[], None]] = []
        if "REDIS_URL" not in os.environ:
            broker = valkey.start(self.directory)
            self.servers.append(broker)
            waits.append(lambda: valkey.wait(broker, self.directory))
            os.environ["REDIS_URL"] = valkey.url(self.directory)
        if "DATABASE_URL" not in os.environ:
            database = postgres.start(self.directory)
            self.servers.append(database)
            waits.append(lambda: postgres.wait(database, self.directory))
            os.environ["DATABASE_URL"] = postgres.url(self.directory)
        os.environ.setdefault("DIFFFIT_STORAGE_URL", (self.directory.path / "files").as_uri())
        os.environ.setdefault("DIFFFIT_WORK_DIR", str(self.directory.path / "work"))
        for part, wait in zip(self.servers, waits, strict=True):
            wait()
            self._up(part.name)

    def _start_services(self) -> None:
        api = ["uvicorn", "api.app:create_app", "--factory", "--host", self.host, "--port", str(self.port)]
        # Open event streams would hold the API for ever.
        self._add_service("api", [*api, "--timeout-graceful-shutdown", "5"], {}, lambda: _answers(f"{self.url}/readyz"))
        for queue in QUEUES:
            worker = ["celery", "-A", "worker.app", "worker", "-Q", queue, "-n", f"{queue}@%h", "--loglevel", "INFO"]
            # Workers need not know each other, and listening for the others costs a second at the start.
            quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            self._add_worker(queue, [*worker, *quiet])
        self._add_worker("webhooks", ["worker.webhooks"])
        waiting = list(self.services)
        while waiting:
            self._check_start(waiting)
            for service in [s for s in waiting if s.is_ready()]:
                self._up(service.name)
                waiting.remove(service)
            time.sleep(POLL_SECONDS)

    def _add_worker(self, name: str, command: list[str]) -> None:
        heartbeat = self.directory.path / "heartbeats" / name
        heartbeat.parent.mkdir(exist_ok=True)
        heartbeat.unlink(missing_ok=True)
        self._add_service(f"worker-{name}", command, {"DIFFFIT_HEARTBEAT_FILE": str(heartbeat)}, heartbeat.exists)

    def _add_service(self, name: str, command: list[str], environment: dict[str, str], is_ready: Callable[[], bool]) -> None:
        part = self._start_part(name, command, environment)
        self.services.append(Service(name, command, environment, is_ready, part))

    def _start_part(self, name: str, command: list[str], environment: dict[str, str]) -> Part:
        return process.start(
            name,
            [sys.executable, "-m", *command],
            log=self.directory.log(name),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            inherited=[self.directory.children_lock],
        )

    def _check_start(self, waiting: list[Service]) -> None:
        for part in [*self.servers, *(service.part for service in waiting)]:
            if not part.running:
                raise part.failure(f"ended with status {part.process.returncode}")
        if time.monotonic() - self.began > READY_SECONDS:
            raise waiting[0].part.failure(f"was not ready after {READY_SECONDS:.0f} s")

    def _up(self, name: str) -> None:
        self.say(f"{name:<15} up after {time.monotonic() - self.began:4.1f} s")

    def supervise(self) -> None:
        """One look at all parts, to be repeated: start again what died. Raises EmbeddedServerError where that is no use."""
        for server in self.servers:
            if not server.running:
                raise server.failure(f"ended with status {server.process.returncode}")
        now = time.monotonic()
        for service in self.services:
            if service.restart_at is not None and now >= service.restart_at:
                service.part, service.restart_at = self._start_part(service.name, service.command, service.environment), None
            elif service.restart_at is None and not service.part.running:
                service.deaths = [t for t in service.deaths if now - t < FORGET_DEATHS_SECONDS] + [now]
                if len(service.deaths) >= MOST_DEATHS:
                    raise service.part.failure(f"ended {MOST_DEATHS} times, last with status {service.part.process.returncode}")
                service.restart_at = now + 2.0 ** (len(service.deaths) - 2)
                self.say(
                    f"{service.name} ended with status {service.part.process.returncode} and is started again; "
                    f"its log is {service.part.log}"
                )

    def stop(self) -> None:
        """Stop what runs: first the workers together, then the API, Valkey and PostgreSQL."""
        workers = [service.part for service in self.services if service.name.startswith("worker-")]
        for worker in workers:
            worker.ask_to_stop()
        for worker in workers:
            worker.wait_or_kill(get_settings().stop_grace_seconds + WORKER_GRACE_MARGIN_SECONDS)
            self.say(f"{worker.name:<15} stopped")
        others = [service.part for service in self.services if service.part not in workers]
        for part in [*others, *self.servers]:
            part.stop(SERVER_GRACE_SECONDS)
            self.say(f"{part.name:<15} stopped")


def _kept_key(path: Path) -> str:
    """The API key of this data directory, made on the first start."""
    if not path.exists():
        unfinished = path.with_name("api-key.unfinished")  # a start that is killed here must not leave an empty key
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(MINIMUM_KEY_LENGTH) + "\n")
        unfinished.rename(path)
    return path.read_text().strip()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1):
            return True
    except (URLError, OSError):
        return False
