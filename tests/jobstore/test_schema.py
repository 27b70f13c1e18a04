"""The migrations lead to exactly the tables that the code declares."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.keys import find_tenant, hash_key
from jobstore.migrate import upgrade
from jobstore.settings import Settings
from jobstore.tables import ApiKey, Base, Tenant


def test_migrations_make_the_declared_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_again_changes_nothing_and_installs_the_key_once(settings: Settings, sessions: sessionmaker[Session]) -> None:
    key = SecretStr("k" * 32)
    for _ in range(2):
        upgrade(settings.database_url.get_secret_value(), key)
    with sessions() as session:
        found = find_tenant(session, "k" * 32)
        assert found is not None
        assert found.name == "default"
        assert session.scalar(select(func.count()).select_from(Tenant)) == 1
        assert session.scalars(select(ApiKey.sha256)).all() == [hash_key("k" * 32)]


def test_an_unknown_key_opens_nothing(sessions: sessionmaker[Session], tenant: Tenant, api_key: str) -> None:
    with sessions() as session:
        mine = find_tenant(session, api_key)
        assert mine is not None
        assert mine.id == tenant.id
        assert find_tenant(session, api_key + "x") is None
