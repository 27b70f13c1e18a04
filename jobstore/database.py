"""The way into PostgreSQL. Only a request's or a task's boundary commits: `with sessions.begin() as session: …`."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

CONNECTIONS = 20  # of one process at most
# A process that is stopped in the middle of a transaction keeps its row locks no longer; nothing here thinks for so long.
IDLE_IN_TRANSACTION_SECONDS = 20
CONNECT_SECONDS = 5


def make_engine(url: str) -> Engine:
    """An engine over psycopg 3. A connection that the server has closed is replaced before it is used."""
    options = f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_SECONDS * 1000}"
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=CONNECTIONS // 4,
        max_overflow=CONNECTIONS - CONNECTIONS // 4,
        connect_args={"options": options, "connect_timeout": CONNECT_SECONDS},
    )


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)
