"""PostgreSQL is restarted under the API: no request that comes when it is back is answered 503."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from jobstore.embedded import postgres
from jobstore.embedded.directory import DataDirectory
from jobstore.kit import database
from jobstore.kit.database import make_engine, session_factory
from jobstore.kit.migrate import upgrade
from jobstore.kit.settings import Settings
from jobstore.tenants.keys import install_key
from tests.api.conftest import Rows, bearer


def test_nobody_meets_a_connection_from_before_a_restart(
    settings: Settings, tmp_path: Path, api_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both pools are used by several requests at once, and one that writes comes first."""
    monkeypatch.setattr(database, "RESTED_SECONDS", math.inf)  # as if the restart had taken no time
    with DataDirectory(tmp_path / "data") as directory:
        server = postgres.start(directory)
        try:
            postgres.wait(server, directory)
            url = postgres.url(directory)
            upgrade(url)
            engine = make_engine(url)
            with session_factory(engine).begin() as session:
                rows = Rows(session_factory(engine), install_key(session, api_key))
            app = create_app(settings.model_copy(update={"database_url": SecretStr(url)}))
            with TestClient(app, headers=bearer(api_key)) as client, ThreadPoolExecutor(8) as several:
                job_id = rows.job(client)

                def statuses() -> set[int]:
                    paths = ["/datasets", f"/jobs/{job_id}", f"/jobs/{job_id}/events", "/usage"] * 5
                    return set(several.map(lambda path: client.get(path).status_code, paths))

                assert statuses() == {200}
                server.stop(30)
                server = postgres.start(directory, again=True)
                postgres.wait(server, directory)
                assert rows.job(client)
                assert statuses() == {200}
            engine.dispose()
        finally:
            server.stop(30)
