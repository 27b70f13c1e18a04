"""`difffit adapters`: download."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from client.console import connect, err, existing_folder, file_part, out, plain, print_json, size_text
from client.options import AsJson
from client.progress import transfer_bar

app = typer.Typer(no_args_is_help=True, help="The results of jobs.")


@app.command()
def download(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter's id, ad_…, or that of its job, job_….")],
    file_format: Annotated[
        Literal["difffit", "peft", "merged"],
        typer.Option(
            "--format", help="The adapter's own file, or a zip: of a PEFT folder, or of the whole model with it merged."
        ),
    ] = "difffit",
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; absent: ADAPTER.safetensors, or ADAPTER.FORMAT.zip.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download an adapter; the server makes other formats than its own at the first request."""
    name = f"{file_part(source)}.safetensors" if file_format == "difffit" else f"{file_part(source)}.{file_format}.zip"
    target = output or Path(name)
    if target.is_dir():
        target /= name
    existing_folder(target.parent)
    with connect(context) as client, transfer_bar(err, "downloading") as moved:
        size = client.download_adapter(source, target, progress=moved, file_format=file_format)
    if as_json:
        print_json({"file": str(target), "bytes": size})
    else:
        out.print(f"{plain(target)}  {size_text(size)}", soft_wrap=True)
