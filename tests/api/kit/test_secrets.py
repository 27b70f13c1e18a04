"""Secrets go nowhere: neither into logs nor into rows, events, errors or answers."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.settings import Settings
from jobstore.kit.tables import Base, Tenant
from tests.api.conftest import Rows, bearer, running_server

KEY = f"difffit_{secrets.token_hex(16)}"  # made up, known to nobody


def everything(sessions: sessionmaker[Session]) -> str:
    """Every row of the database as text."""
    with sessions() as session:
        tables = Base.metadata.sorted_tables
        return "\n".join(str(session.execute(text(f"SELECT to_jsonb(t) FROM {table.name} t")).all()) for table in tables)


def test_keys_are_in_no_log_row_or_answer(
    sessions: sessionmaker[Session], tenant: Tenant, api_key: str, rows: Rows, capfd: pytest.CaptureFixture[str]
) -> None:
    """A good key and an unknown one, in headers, query and body, also where requests fail."""
    answers = []
    with running_server(api_key) as server, server.client() as client:
        made = client.post("/keys", json={"name": "robot"}, headers={"idempotency-key": "k"}).json()
        spec = {"base_model": "emoji-dit", "dataset": rows.dataset().id}
        for headers in (bearer(made["key"]), bearer(KEY), {"authorization": f"Basic {KEY}"}):
            for method, path in (
                ("GET", "/jobs"),
                ("POST", "/jobs"),
                ("GET", "/jobs/no"),
                ("GET", "/nowhere"),
                ("GET", "/keys"),
            ):
                answers.append(client.request(method, path, json=spec if method == "POST" else None, headers=headers))
        rotated = client.post(f"/keys/{made['id']}/rotate").json()
        answers.append(client.get("/keys"))
    printed = capfd.readouterr()
    assert "POST /keys" in printed.out + printed.err
    stored, answered = everything(sessions), "".join(answer.text + str(answer.headers) for answer in answers)
    assert made["id"] in stored
    for secret in (api_key, made["key"], rotated["key"], KEY):
        for place in (printed.out, printed.err, stored, answered):
            assert secret not in place


def test_the_secret_of_a_webhook_is_in_its_row_and_nowhere_else(client: TestClient, sessions: sessionmaker[Session]) -> None:
    made = client.post("/webhooks", json={"url": "https://example.com"}, headers={"idempotency-key": "k"}).json()
    with sessions() as session:
        session.execute(text("UPDATE webhooks SET secret = 'elsewhere'"))
        session.commit()
    assert made["secret"] not in everything(sessions)
    assert made["secret"] not in client.get("/webhooks").text + client.get(f"/webhooks/{made['id']}").text


def test_settings_hide_what_is_secret(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with_secrets = settings.model_validate(
        {
            "DATABASE_URL": "postgresql://u:hidden-1@h/d",
            "REDIS_URL": "redis://:hidden-2@h",
            "api_key": "hidden-3" * 4,
            "storage_url": "file:///x",
        }
    )
    assert "hidden" not in repr(with_secrets) + str(with_secrets.model_dump())


@pytest.mark.parametrize("command", [["-m", "jobstore.kit.migrate"], ["-c", "from api.app import create_app; create_app()"]])
def test_a_process_that_cannot_start_does_not_print_secrets(command: list[str], tmp_path: Path) -> None:
    """The wrong setting is named, and its value is not shown."""
    wrong = {"DATABASE_URL": "mysql://u:hidden-1@h/d", "REDIS_URL": "redis://:hidden-2@h", "DIFFFIT_API_KEY": "hidden-3"}
    environment = os.environ | wrong | {"DIFFFIT_STORAGE_URL": tmp_path.as_uri()}
    ended = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "DATABASE_URL" in ended.stderr
    assert "hidden" not in ended.stdout + ended.stderr
