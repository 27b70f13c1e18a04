"""Large uploads of the client: they go on where they were cut, in this process and in another."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.api import Client
from client.tus import ResumableUpload
from tests.client.conftest import Service


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.api.ONE_REQUEST_BYTES", 1000)
    monkeypatch.setattr("client.tus.PART_BYTES", 1000)
    monkeypatch.setattr("client.api.time.sleep", lambda _: None)


class Cutting(httpx.BaseTransport):
    """Cuts the connection at the requests with these numbers: before they arrive, or with their answers."""

    def __init__(self, before: set[int], after: set[int]) -> None:
        self.before, self.after, self.sent = before, after, list[str]()
        self._network = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(f"{request.method} {request.headers.get('upload-offset', '')}".strip())
        if len(self.sent) in self.before:
            raise httpx.ReadError("cut", request=request)
        answer = self._network.handle_request(request)
        if len(self.sent) in self.after:
            answer.read()
            raise httpx.ReadError("cut", request=request)
        return answer


def upload(service: Service, transport: httpx.BaseTransport, path: Path, seen: list[Any] | None = None) -> Any:
    with Client(service.server.url, service.server.api_key) as client:
        client._http._transport = transport
        client._http._mounts = {}
        progress = None if seen is None else lambda done, total: seen.append((done, total))
        return client.upload_dataset([path], name="large", format="food-101", progress=progress)


def test_cuts_cost_a_part_each(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    path.write_bytes(os.urandom(3500))
    seen: list[tuple[int, int]] = []
    network = Cutting(before={5}, after={7})  # the first part before it arrives, and the answer to the second
    dataset = upload(service, network, path, seen)
    assert (dataset["name"], dataset["bytes"], dataset["format"]) == ("large", 3500, "food-101")
    offsets = [sent for sent in network.sent if sent.startswith("PATCH")]
    assert offsets == ["PATCH 0", "PATCH 0", "PATCH 1000", "PATCH 2000", "PATCH 3000"]
    assert seen[-1] == (3500, 3500)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_another_process_goes_on_and_a_finished_file_begins_anew(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    path.write_bytes(os.urandom(2500))
    with Client(service.server.url, service.server.api_key) as client:
        first = ResumableUpload(path, "large")
        url = first.begin(client._request)
        assert first.send_part(client._request, url, 0) == 1000
    network = Cutting(set(), set())
    dataset = upload(service, network, path)
    assert [sent for sent in network.sent if sent.startswith("PATCH")] == ["PATCH 1000", "PATCH 2000"]
    again = upload(service, Cutting(set(), set()), path)
    assert again["id"] != dataset["id"]
    assert again["bytes"] == 2500
