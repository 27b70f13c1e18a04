"""Alembic's entry: the steps in one transaction, on the connection that `jobstore.kit.migrate` gives or on DATABASE_URL."""

import os

from alembic import context
from sqlalchemy import Connection

from jobstore.kit.database import make_engine
from jobstore.kit.tables import Base


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with make_engine(os.environ["DATABASE_URL"]).connect() as opened:
        run(opened)
