"""Fixtures of the API's tests: a client in this process, a real server in another, and rows as workers leave them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, Dataset, Job, Tenant
from jobstore.tenants.keys import install_key

Row = TypeVar("Row", Dataset, Adapter)

START_SECONDS = 120.0  # until a server under test must answer, on a machine that is busy


@pytest.fixture
def client(settings: Settings, tenant: Tenant, api_key: str) -> Iterator[TestClient]:
    """The app, with the key of `tenant`."""
    with TestClient(create_app(settings), raise_server_exceptions=False, headers=bearer(api_key)) as client:
        yield client


@pytest.fixture
def stranger(sessions: sessionmaker[Session]) -> dict[str, str]:
    """Headers with the key of another tenant."""
    with sessions.begin() as session:
        install_key(session, "another-tenants-key-0123456789", "another")
    return bearer("another-tenants-key-0123456789")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Rows:
    """Makes rows of the tenant in any state."""

    sessions: sessionmaker[Session]
    tenant: Tenant

    def dataset(self, status: str = "ready", **values: Any) -> Dataset:
        dataset_id = new_id("ds")
        defaults: dict[str, Any] = {"name": "pets", "upload_key": f"datasets/{dataset_id}/upload", "upload_bytes": 10}
        if status == "ready":
            defaults |= {"classes": {"cat": 12, "dog": 8}, "holds": ["file", "label"], "sha256": "5" * 64}
            defaults["report"] = {"files": 20, "kept": 20}
        return self._add(Dataset(id=dataset_id, tenant_id=self.tenant.id, status=status, **(defaults | values)))

    def job(self, client: TestClient, status: str = "queued", dataset: str | None = None) -> str:
        """A job created by the API and then brought to a status; its id."""
        posted = client.post("/jobs", json={"base_model": "emoji-dit", "dataset": dataset or self.dataset().id})
        assert posted.status_code == 202, posted.text
        job_id = str(posted.json()["id"])
        with self.sessions.begin() as session:
            session.get_one(Job, job_id).status = status
        return job_id

    def adapter(self, job_id: str, data: bytes = b"weights") -> Adapter:
        adapter_id = new_id("ad")
        row = Adapter(id=adapter_id, tenant_id=self.tenant.id, job_id=job_id, base_model="emoji-dit")
        row.object_key, row.bytes, row.sha256 = f"adapters/{adapter_id}/adapter.safetensors", len(data), "a" * 64
        row.class_names = ["cat", "dog"]
        return self._add(row)

    def _add(self, row: Row) -> Row:
        with self.sessions.begin() as session:
            session.add(row)
        return row


@pytest.fixture
def rows(sessions: sessionmaker[Session], tenant: Tenant) -> Rows:
    return Rows(sessions, tenant)


@dataclass(frozen=True)
class Server:
    """A real uvicorn in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    headers: dict[str, str]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=60.0)

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes resident now, or at most so far (`VmHWM`)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) * 1024


@pytest.fixture
def server(settings: Settings, tenant: Tenant, api_key: str, store: ObjectStore) -> Iterator[Server]:
    with running_server(api_key) as server:
        yield server


@contextmanager
def running_server(api_key: str) -> Iterator[Server]:
    """A server with the settings of the environment, until the block ends; a test may kill it earlier."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "api", "--port", str(port)]
    process = subprocess.Popen([*command, "--timeout-graceful-shutdown", "1"], env=os.environ)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url)
        yield Server(process, url, bearer(api_key))
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError(f"The server is not ready; its exit code is {process.poll()}")
