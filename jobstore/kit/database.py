"""The way into PostgreSQL. Only a request's or a task's boundary commits: `with sessions.begin() as session: …`."""

import select as sockets
import time
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from sqlalchemy import (
    BindParameter,
    CursorResult,
    Engine,
    Insert,
    Select,
    String,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.types import TypeEngine

CONNECTIONS = 20  # of one process at most
READING_CONNECTIONS = 5  # beside those; a look takes less than a millisecond
# A process that is stopped in the middle of a transaction keeps its row locks no longer; nothing here thinks for so long.
IDLE_IN_TRANSACTION_SECONDS = 20
CONNECT_SECONDS = 5
RESTED_SECONDS = 1.0
PING_SECONDS = 2.0
WAKE_SECONDS = 0.1  # how often a wait looks at the clock
SERVER_SHARE = 0.8  # of the time that a client waits: then the server gives up first, and the connection stays good
DIALECT = create_engine("postgresql+psycopg://").dialect


def make_engine(url: str, reading: bool = False, answer_seconds: float | None = None) -> Engine:
    """An engine over psycopg 3. A connection that the server has closed meanwhile is replaced before it is used.

    `reading`: for single looks. Each query is a transaction of its own, which saves the ways there and back of two more.
    `answer_seconds`: nothing waits longer for a connection, or for the answer to a statement; both end in an error by which
    `errors.DATABASE_AWAY` of the API knows that the server is away. None waits for ever, as migrations have to.
    """
    # Queries here are short: compiling one would take longer than running it.
    options = f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_SECONDS * 1000} -c jit=off"
    limits: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS}
    if answer_seconds is not None:
        options += f" -c statement_timeout={int(answer_seconds * SERVER_SHARE * 1000)}"
        # libpq counts in whole seconds, and takes one for two.
        limits = {"connect_timeout": max(2, int(min(CONNECT_SECONDS, answer_seconds)))}
    engine = create_engine(
        url,
        pool_size=READING_CONNECTIONS if reading else CONNECTIONS,
        max_overflow=0,  # such connections would be opened anew for every request
        connect_args={"options": options, **limits},
        **({"isolation_level": "AUTOCOMMIT"} if reading else {}),
        **({} if answer_seconds is None else {"pool_timeout": answer_seconds}),
    )
    if answer_seconds is not None:
        _answer_within(engine, answer_seconds)
    _check_rested_connections(engine)
    return engine


class PromptConnection(psycopg.Connection[Any]):
    """A connection whose server answers in time, or that is closed: a server that is stopped says nothing, for ever."""

    answer_seconds: float | None = None

    def wait(self, gen: Any, interval: float = WAKE_SECONDS, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # it has not answered
                self.close()
            raise


def _answer_within(engine: Engine, seconds: float) -> None:
    def connect(_dialect: object, _record: object, arguments: tuple[str, ...], options: dict[str, Any]) -> PromptConnection:
        connection = PromptConnection.connect(*arguments, **options)
        connection.answer_seconds = seconds
        return connection

    event.listen(engine, "do_connect", connect)


def _check_rested_connections(engine: Engine) -> None:
    """Replace connections that the server has closed since they were returned.

    One that waits in the pool has nothing to read, unless the server took its leave: that costs no way there and back to see.
    One that has rested for a while may also have been lost by the network between, so the server is asked.
    """

    def on_return(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["returned_at"] = time.monotonic()

    def on_use(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        returned_at = record.info.get("returned_at")
        if returned_at is None:  # it is new
            return
        try:
            if _readable(connection):
                raise DisconnectionError("The server has closed the connection.")
            if time.monotonic() > returned_at + RESTED_SECONDS:
                _ping(engine, connection)
        except psycopg.Error as error:  # the pool opens another
            raise DisconnectionError(str(error)) from error

    event.listen(engine, "checkin", on_return)
    event.listen(engine, "checkout", on_use)


def _ping(engine: Engine, connection: Any) -> None:
    patience = getattr(connection, "answer_seconds", None)
    connection.answer_seconds = PING_SECONDS
    engine.dialect.do_ping(connection)
    connection.answer_seconds = patience


def _readable(connection: Any) -> bool:
    waiting = sockets.poll()
    waiting.register(connection.fileno(), sockets.POLLIN)
    return bool(waiting.poll(0))


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def given(name: str, type_: TypeEngine[Any] | None = None) -> BindParameter[Any]:
    """A value of a prepared statement that each run brings."""
    return bindparam(name, None, String() if type_ is None else type_)


class Prepared:
    """A statement that is put into words once, for what many requests ask.

    SQLAlchemy takes several times as long to build a statement and to find it in its cache as the server takes to answer it.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]] | ReturningInsert[*tuple[Any, ...]] | Insert) -> None:
        compiled = statement.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
        self._text = str(compiled)
        # Constants stand in the text: PostgreSQL sees then which partial index it can use, whatever plan it keeps.
        for name, value in compiled.params.items():
            if value is not None:
                self._text = self._text.replace(f"%({name})s", sql.Literal(value).as_string())

    def run(self, session: Session, **parameters: object) -> CursorResult[*tuple[Any, ...]]:
        """`parameters` are the columns, or what of the statement is `given`; rows are as the driver has them."""
        session.flush()
        return session.connection().exec_driver_sql(self._text, parameters)


def insert_rows(model: type[DeclarativeBase], name: str, *columns: str) -> Insert:
    """An INSERT of any number of rows: they are `given` by this name, a JSON list of objects with these columns."""
    rows = func.jsonb_populate_recordset(literal_column(f"NULL::{model.__tablename__}"), given(name, JSONB())).table_valued(
        *columns
    )
    return insert(model).from_select(columns, select(*(rows.c[name] for name in columns)))
