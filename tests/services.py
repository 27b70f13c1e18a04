"""Fixtures of the service's tests: a real PostgreSQL and a real Valkey, and for each test a migrated database of its own.

TEST_DATABASE_URL (of a user that may create databases) and TEST_REDIS_URL replace the embedded servers. Tests run in several
processes, which have a database of that Redis each.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.orm import Session, sessionmaker

from jobstore.embedded import postgres, valkey
from jobstore.embedded.directory import DataDirectory
from jobstore.kit.database import make_engine, session_factory
from jobstore.kit.migrate import upgrade
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings, get_settings
from jobstore.kit.tables import Tenant
from jobstore.tenants.keys import install_key

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")  # the number of this process among those that test


@dataclass(frozen=True)
class Servers:
    maintenance: Engine  # for CREATE DATABASE
    template: str
    redis_url: str

    def database_url(self, name: str) -> str:
        return _render(self.maintenance.url.set(database=name))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Both servers and a migrated template database."""
    with ExitStack() as stack:
        database_url, redis_url = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
        if redis_url is not None:
            redis_url = urlsplit(redis_url)._replace(path=f"/{WORKER}").geturl()
        if database_url is None or redis_url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="difffit-tests-")))
            directory = stack.enter_context(DataDirectory(folder))
            if redis_url is None:
                broker = valkey.start(directory)
                stack.callback(broker.stop, 10)
                valkey.wait(broker, directory)
                redis_url = valkey.url(directory)
            if database_url is None:
                database = postgres.start(directory)
                stack.callback(database.stop, 10)
                postgres.wait(database, directory)
                database_url = postgres.url(directory)
                _make_fast(database_url)
        maintenance = create_engine(_psycopg(database_url).set(database="postgres"), isolation_level="AUTOCOMMIT")
        stack.callback(maintenance.dispose)
        template = f"difffit_template_{secrets.token_hex(4)}"
        servers = Servers(maintenance, template, redis_url)
        _execute(maintenance, f"CREATE DATABASE {template}")
        stack.callback(_execute, maintenance, f"DROP DATABASE {template} WITH (FORCE)")
        upgrade(servers.database_url(template))
        yield servers


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """An empty database with the newest schema."""
    name = f"difffit_test_{secrets.token_hex(8)}"
    _execute(servers.maintenance, f"CREATE DATABASE {name} TEMPLATE {servers.template}")
    yield servers.database_url(name)
    _execute(servers.maintenance, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """A queue without messages."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
    return servers.redis_url


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of this test's servers and folders. They stand in the environment, so that processes it starts share them."""
    for name in [name for name in os.environ if name.startswith("DIFFFIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DIFFFIT_STORAGE_URL", (tmp_path / "files").as_uri())
    monkeypatch.setenv("DIFFFIT_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("DIFFFIT_DEVICE", "cpu")
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings.database_url.get_secret_value())
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return session_factory(engine)


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return ObjectStore(settings.storage_url)


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A server that speaks S3, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket_url(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of that server; what it takes to reach it stands in the environment."""
    name = f"bucket-{secrets.token_hex(8)}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    for variable, value in (keys | {"AWS_ENDPOINT_URL": s3_url, "AWS_ALLOW_HTTP": "true"}).items():
        monkeypatch.setenv(variable, value)
    with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:  # until the server listens
        assert client.put(f"{s3_url}/{name}").status_code == 200
    return f"s3://{name}/some/prefix"


@pytest.fixture
def api_key() -> str:
    """The key that opens `tenant`."""
    return secrets.token_urlsafe(24)


@pytest.fixture
def tenant(sessions: sessionmaker[Session], api_key: str) -> Tenant:
    with sessions.begin() as session:
        return install_key(session, api_key)


def _make_fast(url: str) -> None:
    """Test data need not survive a power cut, and DROP DATABASE waits for the disk otherwise."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    for statement in ("ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()"):
        _execute(engine, statement)
    engine.dispose()


def _execute(engine: Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.execute(text(statement))


def _psycopg(url: str) -> URL:
    return make_url(url).set(drivername="postgresql+psycopg")


def _render(url: URL) -> str:
    return url.render_as_string(hide_password=False)
