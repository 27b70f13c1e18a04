"""Bring a database to the newest schema and install the API key of the settings: `python -m jobstore.kit.migrate`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy import text

import migrations
from jobstore.kit.database import make_engine, session_factory
from jobstore.kit.settings import get_settings
from jobstore.tenants.keys import install_key

LOCK = 0x1D1FF_F17  # any number; whoever migrates holds the advisory lock of this name


def upgrade(url: str, api_key: SecretStr | None = None) -> None:
    """Run Alembic to the head and install the key. Several processes may do so at once: they take turns."""
    config = Config(str(Path(migrations.__file__).parent / "alembic.ini"))
    engine = make_engine(url)
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        if api_key is not None:
            with session_factory(engine).begin() as session:
                install_key(session, api_key.get_secret_value())
    engine.dispose()


if __name__ == "__main__":
    settings = get_settings()
    upgrade(settings.database_url.get_secret_value(), settings.api_key)
