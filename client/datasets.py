"""`difffit datasets`: upload, list, show."""

from pathlib import Path
from typing import Annotated

import typer

from client.console import (
    Columns,
    connect,
    err,
    facts,
    note,
    or_json,
    out,
    plain,
    problem_text,
    show_page,
    size_text,
    status_text,
    table,
    when,
)
from client.options import After, AsJson, Limit
from client.progress import transfer_bar
from client.responses import Dataset, DatasetReport
from client.upload import prepare_upload

SMALL_BASES = {"label": "emoji-dit", "messages": "smollm2-135m"}  # which run anywhere, by what examples have
SHOWN_FILES = 20  # lines of refused files and of duplicates; --json gives all

app = typer.Typer(no_args_is_help=True, help="Upload images or texts, and see what the server made of them.")


@app.command("upload")
def send(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="A folder, an archive, a .json or .jsonl, or images.")],
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    label: Annotated[str | None, typer.Option(help="The class of loose images.")] = None,
    format: Annotated[str | None, typer.Option(help="The layout, such as folders or food-101; recognised if left out.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the server's check and show its report.")] = True,
    as_json: AsJson = False,
) -> None:
    """Upload a dataset and show what was kept and what was refused."""
    with connect(context) as client, prepare_upload(paths) as upload:
        if upload.left_out:
            note(f"{upload.left_out} hidden files are not sent")
        with transfer_bar(err, "uploading") as moved:
            dataset = client.upload_dataset(
                upload.files, name=name or default_name(paths), label=label, format=format, progress=moved
            )
        if wait:
            with err.status("the server checks every example"):
                dataset = client.wait_dataset(dataset["id"])
    present(dataset, as_json)
    if dataset["status"] == "failed":
        raise typer.Exit(1)
    if dataset["status"] == "ready":
        base = next((base for held, base in SMALL_BASES.items() if held in (dataset["holds"] or ())), "…")
        note(f"Train on it:  difffit jobs create --base {base} --dataset {dataset['id']}")


def default_name(paths: list[Path]) -> str:
    """A dataset is called like the first thing the user named, without the suffixes of an archive."""
    name = paths[0].resolve().name
    return name.split(".")[0] or name


COLUMNS: Columns[Dataset] = {
    "id": lambda dataset: dataset["id"],
    "name": lambda dataset: plain(dataset["name"]),
    "status": lambda dataset: status_text(dataset["status"]),
    "#examples": lambda dataset: dataset["examples"],
    "#classes": lambda dataset: len({*(dataset["classes"] or ())} - {""}) or None,
    "#size": lambda dataset: size_text(dataset["bytes"]),
    "created": lambda dataset: when(dataset["created_at"]),
}


@app.command("list")
def list_datasets(context: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """List datasets, newest first."""
    with connect(context) as client:
        show_page(client.datasets(limit=limit, after=after), as_json, COLUMNS)


@app.command()
def show(
    context: typer.Context,
    dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="An id such as ds_….")],
    as_json: AsJson = False,
) -> None:
    """Show one dataset and the report of its check."""
    with connect(context) as client:
        present(client.dataset(dataset_id), as_json)


@or_json
def present(dataset: Dataset) -> None:
    error = problem_text(dataset["error"]) if dataset["error"] else None
    out.print(
        facts(
            [
                ("dataset", f"[bold]{dataset['id']}[/]"),
                ("name", plain(dataset["name"])),
                ("status", status_text(dataset["status"])),
                ("error", error),
                ("examples", dataset["examples"]),
                ("each has", ", ".join(dataset["holds"] or ()) or None),
                ("size", size_text(dataset["bytes"])),
            ]
        )
    )
    if dataset["report"] is not None:
        present_report(dataset["report"])


def present_report(report: DatasetReport) -> None:
    """Counts per class and part of the split, then every kind of file that a person should look at."""
    if any(report.get("classes", ())):  # not of the class without a name alone
        out.print(table(["class", "#examples"], [(plain(name), count) for name, count in sorted(report["classes"].items())]))
    if report.get("splits"):
        out.print(table(["split", "#examples"], [(plain(name), count) for name, count in sorted(report["splits"].items())]))
    texts = report.get("texts", {})
    if texts:
        lengths = [(name, found["count"], found["shortest"], found["longest"]) for name, found in texts.items()]
        out.print(table(["text", "#count", "#shortest", "#longest"], lengths, title="characters"))
    if report.get("conditions"):
        note(f"{report['conditions']} pictures have a condition")
    for warning in report.get("warnings", []):
        note(f"{report['layout']}: {plain(warning['message'])}")
    refused, duplicates = report.get("refused", []), report.get("duplicates", [])
    if refused:
        rows = [(plain(r["file"]), plain(r["message"])) for r in refused[:SHOWN_FILES]]
        out.print(table(["file", "why"], rows, title=f"{len(refused)} refused"))
    if duplicates:
        rows = [(plain(d["file"]), plain(d["same_as"])) for d in duplicates[:SHOWN_FILES]]
        out.print(table(["file", "same as"], rows, title=f"{len(duplicates)} duplicates, kept once"))
    if max(len(refused), len(duplicates)) > SHOWN_FILES:
        note(f"Only the first {SHOWN_FILES} of each are shown; --json gives all.")
