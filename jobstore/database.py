"""The way into PostgreSQL. Only a request's or a task's boundary commits: `with sessions.begin() as session: …`."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

CONNECTIONS = 20  # of one process at most


def make_engine(url: str) -> Engine:
    """An engine over psycopg 3. A connection that the server has closed is replaced before it is used."""
    return create_engine(url, pool_pre_ping=True, pool_size=CONNECTIONS // 4, max_overflow=CONNECTIONS - CONNECTIONS // 4)


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)
