"""`python -m jobstore.embedded.up`: PostgreSQL, Valkey, migrations, the API and the workers on one machine, until Ctrl-C.

DATABASE_URL and REDIS_URL in the environment replace the embedded servers. Exit codes: 0 stopped as asked, 1 failed,
3 the data directory is in use.
"""

import json
import os
import signal
import socket
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pydantic import ValidationError

from difffit_core.errors import DiffFitError
from jobstore.embedded.directory import DataDirectory
from jobstore.embedded.launcher import Launcher
from jobstore.kit.errors import EmbeddedServerError

EXIT_FAILED, EXIT_IN_USE = 1, 3
SUPERVISE_SECONDS = 0.2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked this process to end."""


def main(
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("~/.difffit"),
    host: Annotated[str, typer.Option(help="The address the API listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port the API listens on; 0 takes a free one.")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
) -> None:
    """Start the whole service on this machine and keep it up until Ctrl-C."""
    for number in STOP_SIGNALS:
        signal.signal(number, _on_signal)
    try:
        with DataDirectory(data_dir) as directory:
            launcher = Launcher(directory, host, _free_port(host, port), lambda line: typer.echo(line, err=as_json))
            run(launcher, as_json)
    except EmbeddedServerError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(EXIT_IN_USE if error.code == "data_directory_in_use" else EXIT_FAILED) from error


def run(launcher: Launcher, as_json: bool) -> None:
    """Start, say so, keep everything up until a signal comes, and stop everything."""
    try:
        _report(launcher, launcher.start(), as_json)
        while True:
            launcher.supervise()
            time.sleep(SUPERVISE_SECONDS)
    except Stopped:
        pass
    except (DiffFitError, ValidationError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from error
    finally:
        # A second Ctrl-C ends this process at once, and the kernel its children with it.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        launcher.stop()


def _report(launcher: Launcher, key: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"url": launcher.url, "api_key": key, "data_dir": str(launcher.directory.path)}))
    else:
        typer.echo(
            f"\nURL      {launcher.url}   (documentation: {launcher.url}/docs)\nAPI key  {key}\nCtrl-C stops everything."
        )


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise Stopped


def _free_port(host: str, port: int) -> int:
    """The port, found free; raises EmbeddedServerError otherwise."""
    try:
        with socket.create_server((host, port)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        raise EmbeddedServerError(
            f"The API cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}. Give another --port.", code="port_in_use"
        ) from error


if __name__ == "__main__":
    typer.run(main)
