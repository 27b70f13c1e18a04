"""Which server to talk to and with which key: command line first, then the environment, then what `difffit up` left behind."""

import os
from dataclasses import dataclass
from pathlib import Path

from client.errors import ConfigError

DATA_DIR = Path.home() / ".difffit"  # where `difffit up` keeps everything unless it is told otherwise


@dataclass(frozen=True)
class ServerConfig:
    """A server's address and the key to it."""

    url: str
    api_key: str


def find_server(url: str | None = None, api_key: str | None = None, data_dir: Path | None = None) -> ServerConfig:
    """The server to use; `url` and `api_key` are the command line's, and `data_dir` is a launcher's.

    The key in a data directory opens that launcher's own server and is never sent to another address.
    Raises ConfigError that names what is missing.
    """
    folder = data_dir or DATA_DIR
    url = url or os.environ.get("DIFFFIT_URL")
    api_key = api_key or os.environ.get("DIFFFIT_API_KEY")
    local_url, local_key = _first_line(folder / "url"), _first_line(folder / "api-key")
    if url is None and local_url is None:
        raise ConfigError("No server is known. Start one with `difffit up`, or set DIFFFIT_URL and DIFFFIT_API_KEY.")
    address = (url or local_url or "").rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"The server's address must begin with http:// or https://, but it is {address!r}.", param="url")
    if api_key is None and local_url is not None and address == local_url.rstrip("/"):
        api_key = local_key
    if api_key is None:
        raise ConfigError(f"There is no key for {address}. Set DIFFFIT_API_KEY, or give --api-key.", param="api_key")
    return ServerConfig(url=address, api_key=api_key)


def _first_line(path: Path) -> str | None:
    try:
        lines = path.read_text().split()
    except OSError:
        return None
    return lines[0] if lines else None
