"""What the operator sees: health, readiness, counts, the models on offer."""

import shutil
from pathlib import Path

from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from jobstore.settings import Settings
from tests.api.conftest import Rows
from tests.api.test_errors import assert_error


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
