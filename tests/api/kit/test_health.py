"""What the operator sees: health, readiness, counts, the models on offer."""

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from api.kit import health as health
from api.kit import readiness
from api.kit.dependencies import Resources
from jobstore.kit.settings import Settings
from tests.api.conftest import Rows
from tests.api.kit.test_errors import assert_error


def test_health_and_readiness_need_no_key(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/docs").status_code == 200
        assert client.get("/openapi.json").status_code == 200


def test_readiness_names_the_part_that_is_away(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"database_url": SecretStr("postgresql+psycopg://nobody@127.0.0.1:1/none")})
    with TestClient(create_app(away)) as client:
        assert client.get("/healthz").status_code == 200
        message = assert_error(client.get("/readyz"), 503, "not_ready")["message"]
        assert "database" in message
        assert "broker" not in message
        shutil.rmtree(tmp_path / "files")
        (tmp_path / "files").write_text("not a folder")
        assert "object store" in client.get("/readyz").json()["error"]["message"]


def test_readiness_is_looked_at_once_for_all_who_ask(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks needs no key, and a look writes a file and opens connections."""
    looks: list[Resources] = []
    monkeypatch.setattr(health, "_check_store", looks.append)
    with TestClient(create_app(settings)) as client, ThreadPoolExecutor(8) as several:
        began = time.monotonic()
        assert set(several.map(lambda _: client.get("/readyz").status_code, range(100))) == {200}
        assert 1 <= len(looks) <= 1 + (time.monotonic() - began) / readiness.KEPT_SECONDS


def test_the_documentation_loads_nothing_from_elsewhere(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        page = client.get("/docs")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert "<script>" not in page.text
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) == 4
        for name in loaded:
            assert not urlsplit(name).netloc
            assert client.get(f"/{name}").status_code == 200
        assert "SwaggerUIBundle" in client.get("/docs/swagger-ui-bundle.js").text
        assert client.get("/openapi.json").json()["openapi"].startswith("3.")
        assert_error(client.get("/docs/passwd"), 422)


def test_every_answer_forbids_browsers_what_none_of_it_needs(client: TestClient) -> None:
    for path in ("/healthz", "/jobs", "/no/such/route", "/docs", "/models"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


def test_metrics_count_the_tenants_jobs(client: TestClient, rows: Rows, stranger: dict[str, str]) -> None:
    rows.job(client)
    assert 'difffit_jobs{status="queued"} 1\n' in client.get("/metrics").text
    assert 'difffit_jobs{status="queued"} 0\n' in client.get("/metrics", headers=stranger).text


def test_models_tell_what_is_on_offer(client: TestClient) -> None:
    listed = client.get("/models").json()
    assert listed["has_more"] is False
    model = listed["data"][0]
    assert (model["id"], model["family"], model["image_size"], len(model["classes"])) == ("emoji-dit", "dit", 64, 99)
    assert model["bytes"] > 1_000_000
    assert model["defaults"]["scheduler"] == "dpmsolver++"
