"""Connections that the server has closed are replaced before they are used."""

import math

import pytest
from sqlalchemy import Engine, text

from jobstore.kit import database
from jobstore.kit.database import make_engine
from jobstore.kit.settings import Settings


@pytest.mark.parametrize("checked", ["by a look", "by asking"])
@pytest.mark.parametrize("reading", [False, True])
def test_connections_that_the_server_has_closed_are_replaced(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch, checked: str, reading: bool
) -> None:
    """Each of the two checks, without the other."""
    if checked == "by a look":
        monkeypatch.setattr(database, "RESTED_SECONDS", math.inf)
    else:
        monkeypatch.setattr(database, "RESTED_SECONDS", 0.0)
        monkeypatch.setattr(database, "_readable", lambda connection: False)
    mine = make_engine(settings.database_url.get_secret_value(), reading)
    pids = pids_of(mine)
    assert pids_of(mine) == pids  # what was returned is used again
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
        for pid in pids:
            assert other.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    assert pids.isdisjoint(pids_of(mine))
    mine.dispose()


def pids_of(engine: Engine) -> set[int]:
    """The server's processes behind three connections at once."""
    with engine.connect() as first, engine.connect() as second, engine.connect() as third:
        return {connection.scalars(text("SELECT pg_backend_pid()")).one() for connection in (first, second, third)}
