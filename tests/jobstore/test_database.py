"""Connections that the server has closed are replaced before they are used."""

import time

import pytest
from sqlalchemy import Engine, text

from jobstore import database
from jobstore.database import make_engine
from jobstore.settings import Settings
from tests.worker.waiting import wait_for


def test_a_connection_that_rested_is_asked_before_it_is_used(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "RESTED_SECONDS", 0.0)
    mine = make_engine(settings.database_url.get_secret_value())
    with mine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        gone = text("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = :pid")
        wait_for(lambda: other.scalar(gone, {"pid": pid}))
    time.sleep(0.001)
    with mine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != pid
    mine.dispose()
