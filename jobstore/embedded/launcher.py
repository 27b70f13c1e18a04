"""The parts of the service on one machine: started in order, kept up, and stopped in the opposite order."""

import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from pydantic import SecretStr

from jobstore.embedded import postgres, process, valkey
from jobstore.embedded.directory import DataDirectory
from jobstore.embedded.process import POLL_SECONDS, Part
from jobstore.kit.migrate import upgrade
from jobstore.kit.settings import MINIMUM_KEY_LENGTH, get_settings

QUEUES = ("train", "generate", "default")

READY_SECONDS = 120.0  # importing torch from a cold disk on a busy machine included
SERVER_GRACE_SECONDS = 30.0
WORKER_GRACE_MARGIN_SECONDS = 15.0  # on top of the trainer's grace period, to save what it left
MOST_DEATHS = 5  # of one part without being ready in between; after that, starting it once more will not help


@dataclass
class Service:
    """A server, the API or a worker: a part that is started again when it dies."""

    start: Callable[[], Part]
    is_ready: Callable[[], bool]
    part: Part
    ready: bool = False
    deaths: int = 0  # since it was ready
    restart_at: float | None = None


class Launcher:
    """`say` gets one line for everything that happens. Use it in the main thread only: see `process.start`."""

    def __init__(self, directory: DataDirectory, host: str, port: int, say: Callable[[str], None]) -> None:
        self.directory, self.host, self.port, self.say = directory, host, port, say
        self.url = f"http://{host}:{port}"
        self.began = time.monotonic()
        self.servers: list[Service] = []
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
            self.servers.append(Service(partial(valkey.start, self.directory), partial(valkey.answers, self.directory), broker))
            waits.append(lambda: valkey.wait(broker, self.directory))
            os.environ["REDIS_URL"] = valkey.url(self.directory)
        if "DATABASE_URL" not in os.environ:
            database = postgres.start(self.directory)
            again = partial(postgres.start, self.directory, again=True)
            self.servers.append(Service(again, partial(postgres.answers, self.directory), database))
            waits.append(lambda: postgres.wait(database, self.directory))
            os.environ["DATABASE_URL"] = postgres.url(self.directory)
        os.environ.setdefault("DIFFFIT_STORAGE_URL", (self.directory.path / "files").as_uri())
        os.environ.setdefault("DIFFFIT_WORK_DIR", str(self.directory.path / "work"))
        for server, wait in zip(self.servers, waits, strict=True):
            wait()
            server.ready = True
            self._up(server.part.name)

    def _start_services(self) -> None:
        api = ["api", "--host", self.host, "--port", str(self.port)]
        # Open event streams would hold the API for ever.
        self._add_service("api", [*api, "--timeout-graceful-shutdown", "5"], lambda: _answers(f"{self.url}/readyz"))
        for queue in QUEUES:
            worker = ["celery", "-A", "worker.app", "worker", "-Q", queue, "-n", f"{queue}@%h", "--loglevel", "INFO"]
            # Workers need not know each other, and listening for the others costs a second at the start.
            quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            self._add_worker(queue, [*worker, *quiet])
        self._add_worker("webhooks", ["worker.webhooks.deliveries"])
        waiting = list(self.services)
        while waiting:
            self._check_start(waiting)
            for service in [s for s in waiting if s.is_ready()]:
                service.ready = True
                self._up(service.part.name)
                waiting.remove(service)
            time.sleep(POLL_SECONDS)

    def _add_worker(self, name: str, command: list[str]) -> None:
        heartbeat = self.directory.path / "heartbeats" / name
        heartbeat.parent.mkdir(exist_ok=True)
        self._add_service(f"worker-{name}", command, heartbeat.exists, heartbeat)

    def _add_service(self, name: str, command: list[str], is_ready: Callable[[], bool], heartbeat: Path | None = None) -> None:
        start = partial(self._start_part, name, command, heartbeat)
        self.services.append(Service(start, is_ready, start()))

    def _start_part(self, name: str, command: list[str], heartbeat: Path | None) -> Part:
        environment = {}
        if heartbeat is not None:
            heartbeat.unlink(missing_ok=True)
            environment["DIFFFIT_HEARTBEAT_FILE"] = str(heartbeat)
        return process.start(
            name,
            [sys.executable, "-m", *command],
            log=self.directory.log(name),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            inherited=[self.directory.children_lock],
        )

    def _check_start(self, waiting: list[Service]) -> None:
        for part in [service.part for service in [*self.servers, *waiting]]:
            if not part.running:
                raise part.failure(f"ended with status {part.process.returncode}")
        if time.monotonic() - self.began > READY_SECONDS:
            raise waiting[0].part.failure(f"was not ready after {READY_SECONDS:.0f} s")

    def _up(self, name: str) -> None:
        self.say(f"{name:<15} up after {time.monotonic() - self.began:4.1f} s")

    def supervise(self) -> None:
        """One look at all parts, to be repeated: start again what died. Raises EmbeddedServerError where that is no use."""
        now = time.monotonic()
        for service in [*self.servers, *self.services]:
            if service.restart_at is not None:
                if now >= service.restart_at:
                    service.part, service.restart_at = service.start(), None
            elif not service.part.running:
                self._plan_restart(service, now)
            elif not service.ready and service.is_ready():
                service.ready, service.deaths = True, 0

    def _plan_restart(self, service: Service, now: float) -> None:
        status, name = service.part.process.returncode, service.part.name
        service.deaths, service.ready = service.deaths + 1, False
        if service.deaths >= MOST_DEATHS:
            raise service.part.failure(f"ended {MOST_DEATHS} times, last with status {status}")
        service.restart_at = now + 2.0 ** (service.deaths - 2)
        self.say(f"{name} ended with status {status} and is started again; its log is {service.part.log}")

    def stop(self) -> None:
        """Stop what runs: first the workers together, then the API, Valkey and PostgreSQL."""
        workers = [service.part for service in self.services if service.part.name.startswith("worker-")]
        for worker in workers:
            worker.ask_to_stop()
        for worker in workers:
            worker.wait_or_kill(get_settings().stop_grace_seconds + WORKER_GRACE_MARGIN_SECONDS)
            self.say(f"{worker.name:<15} stopped")
        others = [service.part for service in self.services if service.part not in workers]
        for part in [*others, *(server.part for server in self.servers)]:
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
