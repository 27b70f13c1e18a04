"""The migrations lead to exactly the tables that the code declares."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.migrate import upgrade
from jobstore.kit.settings import Settings
from jobstore.kit.tables import ApiKey, Base, Tenant
from jobstore.tenants.keys import hash_key


def test_migrations_make_the_declared_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_again_changes_nothing_and_installs_the_key_once(settings: Settings, sessions: sessionmaker[Session]) -> None:
    key = SecretStr("k" * 32)
    for _ in range(2):
        upgrade(settings.database_url.get_secret_value(), key)
    with sessions() as session:
        assert session.scalars(select(Tenant.name)).all() == ["default"]
        assert session.scalars(select(ApiKey.sha256)).all() == [hash_key("k" * 32)]
