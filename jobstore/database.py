"""The way into PostgreSQL. Only a request's or a task's boundary commits: `with sessions.begin() as session: …`."""

import time

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

CONNECTIONS = 20  # of one process at most
# A process that is stopped in the middle of a transaction keeps its row locks no longer; nothing here thinks for so long.
IDLE_IN_TRANSACTION_SECONDS = 20
CONNECT_SECONDS = 5
RESTED_SECONDS = 1.0


def make_engine(url: str) -> Engine:
    """An engine over psycopg 3. A connection that the server has closed meanwhile is replaced before it is used."""
    # Queries here are short: compiling one would take longer than running it.
    options = f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_SECONDS * 1000} -c jit=off"
    engine = create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=0,  # such connections would be opened anew for every request
        connect_args={"options": options, "connect_timeout": CONNECT_SECONDS},
    )
    _check_rested_connections(engine)
    return engine


def _check_rested_connections(engine: Engine) -> None:
    """Ask the server before a connection is used that has rested for a while: it may be gone by then."""

    def on_return(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["returned_at"] = time.monotonic()

    def on_use(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        rested = time.monotonic() - record.info.get("returned_at", time.monotonic())
        if rested > RESTED_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except psycopg.Error as error:  # the pool opens another
                raise DisconnectionError(str(error)) from error

    event.listen(engine, "checkin", on_return)
    event.listen(engine, "checkout", on_use)


def reading_factory(engine: Engine) -> sessionmaker[Session]:
    """Sessions for single looks: each query is a transaction of its own, which saves the ways there and back of two more."""
    return session_factory(engine.execution_options(isolation_level="AUTOCOMMIT"))


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)
