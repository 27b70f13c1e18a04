"""What all commands share: the connection, and how they show things: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.api import Client
from client.config import ServerConfig, find_server
from client.responses import Page

T = TypeVar("T")
Item = TypeVar("Item", bound=Mapping[str, Any])
Columns = Mapping[str, Callable[[Item], object]]  # of a table: how each takes its cell from an item

INTERRUPTED = 130  # the shell's code for a command that Ctrl-C ended
PIPED_WIDTH = 180  # columns where stdout is no terminal, so that `grep` sees whole lines of a table

out = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
err = Console(stderr=True, highlight=False)

STATUS_STYLES = {"ready": "green", "succeeded": "green", "failed": "red", "cancelled": "yellow", "cancelling": "yellow"}


def connect(context: typer.Context) -> Client:
    """A client for the server that the options before the command, the environment or `difffit up` name."""
    options: dict[str, str | None] = context.find_root().obj or {}
    server: ServerConfig = find_server(options.get("url"), options.get("api_key"))
    return Client(server.url, server.api_key)


def print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """Say something to the person, on stderr."""
    err.print(message, soft_wrap=True)


@contextmanager
def interruptible(goes_on: str) -> Iterator[None]:
    """Watching, which Ctrl-C ends; what is watched goes on, and the message says so."""
    try:
        yield
    except KeyboardInterrupt:
        note(goes_on)
        raise typer.Exit(INTERRUPTED) from None


def or_json(present: Callable[[T], None]) -> Callable[[T, bool], None]:
    """A function that shows a document to people, or prints it as JSON where its second argument says so."""

    def show(document: T, as_json: bool) -> None:
        if as_json:
            print_json(document)
        else:
            present(document)

    return show


def show_page(page: Page[Item], as_json: bool, columns: Columns[Item]) -> None:
    """A page of a list as a table, or as JSON; says how the list goes on."""
    if as_json:
        print_json(page)
        return
    out.print(table(columns, [[cell(item) for cell in columns.values()] for item in page["data"]]))
    if page["has_more"]:
        note(f"There are more: --after {page['data'][-1]['id']}")


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], title: str | None = None) -> Table:
    """A table whose cells are shown as they are; columns that begin with `#` hold numbers."""
    made = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", header_style="bold dim", pad_edge=False
    )
    for name in columns:
        made.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, str) else "–" if cell is None else str(cell) for cell in row))
    return made


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and values below each other; values that are None are left out."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            made.add_row(name, str(value))
    return made


def status_text(status: str) -> str:
    return f"[{STATUS_STYLES.get(status, 'cyan')}]{status}[/]"


def plain(value: object) -> str:
    """A server's or a user's text as rich shows it literally."""
    return escape(str(value))


def when(moment: str | None) -> str:
    """A time of the API, `2026-01-31T12:00:00.123Z`, to the second."""
    return moment[:19].replace("T", " ") if moment else "–"


def size_text(count: int) -> str:
    """Bytes for people: 1536 is `1.5 KB`, with 1024 bytes to a KB."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GB"


def number_text(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def file_part(text: str) -> str:
    """Any text as a part of a file name, of which a long one gives its beginning."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text[:60]) or "unnamed"


def existing_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def problem_text(problem: Any) -> str:
    """The `error` of a job, a generation or a dataset in one line."""
    field = f" (field {problem['param']})" if problem.get("param") else ""
    return f"{plain(problem['message'])}{plain(field)} [dim]{problem['code']}[/]"
