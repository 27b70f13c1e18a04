"""`difffit evaluate`, and `difffit evaluations`: list, show, delete."""

from typing import Annotated, Any

import typer

from client.api import Client
from client.console import (
    Columns,
    connect,
    err,
    facts,
    interruptible,
    note,
    number_text,
    or_json,
    out,
    plain,
    problem_text,
    show_page,
    status_text,
    table,
    when,
)
from client.options import After, AsJson, Limit
from client.progress import count_bar
from client.responses import Evaluation

app = typer.Typer(no_args_is_help=True, help="How good the pictures of models are.")

EvaluationId = Annotated[str, typer.Argument(metavar="EVALUATION", help="An id such as eval_….")]


def evaluate(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help="The dataset whose held-out pictures are compared with, ds_….")],
    metric: Annotated[list[str], typer.Option(help="fid, kid, precision-recall, clip-score or fd-mobilenet; repeatable.")],
    adapter: Annotated[str | None, typer.Option(help="The adapter to evaluate, ad_….")] = None,
    base: Annotated[str | None, typer.Option(help="Or a base model as it is.")] = None,
    samples: Annotated[int | None, typer.Option(help="How many pictures; absent: 500.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; absent: the base's default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; absent: the base's default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first picture; absent: 0.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it has ended.")] = True,
    as_json: AsJson = False,
) -> None:
    """Measure the pictures of an adapter or a base model against a dataset."""
    if (adapter is None) == (base is None):
        raise typer.BadParameter("Give exactly one of --adapter and --base.")
    asked: dict[str, Any] = {"adapter": adapter, "base_model": base, "dataset": dataset, "metrics": metric}
    asked |= {"samples": samples, "steps": steps, "guidance_scale": guidance, "seed": seed}
    with connect(context) as client:
        evaluation = client.create_evaluation({key: value for key, value in asked.items() if value is not None})
        if wait:
            evaluation = follow(client, evaluation)
    present(evaluation, as_json)
    if evaluation["status"] == "failed":
        raise typer.Exit(1)


def follow(client: Client, evaluation: Evaluation) -> Evaluation:
    """Show how far an evaluation is until it has ended."""
    note(f"evaluation [bold]{evaluation['id']}[/]")
    again = f"The evaluation goes on. Look at it:  difffit evaluations show {evaluation['id']}"
    with interruptible(again), count_bar(err, "measuring") as moved:
        for now in client.watch_evaluation(evaluation["id"]):
            evaluation = now
            moved(now["progress"]["samples"], now["progress"]["total_samples"])
    return evaluation


COLUMNS: Columns[Evaluation] = {
    "id": lambda evaluation: evaluation["id"],
    "status": lambda evaluation: status_text(evaluation["status"]),
    "model": lambda evaluation: evaluation["adapter"] or plain(evaluation["base_model"]),
    "dataset": lambda evaluation: evaluation["dataset"],
    "#samples": lambda evaluation: f"{evaluation['progress']['samples']}/{evaluation['progress']['total_samples']}",
    "figures": lambda evaluation: ", ".join(
        f"{figure['metric']} {number_text(figure['value'])}" for figure in evaluation["figures"] or []
    ),
    "created": lambda evaluation: when(evaluation["created_at"]),
}


@app.command("list")
def list_evaluations(context: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """List evaluations, newest first."""
    with connect(context) as client:
        show_page(client.evaluations(limit=limit, after=after), as_json, COLUMNS)


@app.command()
def show(context: typer.Context, evaluation_id: EvaluationId, as_json: AsJson = False) -> None:
    """Show one evaluation."""
    with connect(context) as client:
        present(client.evaluation(evaluation_id), as_json)


@app.command()
def delete(context: typer.Context, evaluation_id: EvaluationId) -> None:
    """Delete an evaluation; one that runs is stopped."""
    with connect(context) as client:
        client.delete_evaluation(evaluation_id)


@or_json
def present(evaluation: Evaluation) -> None:
    progress, figures = evaluation["progress"], evaluation["figures"]
    out.print(
        facts(
            [
                ("evaluation", f"[bold]{evaluation['id']}[/]"),
                ("status", status_text(evaluation["status"])),
                ("error", problem_text(evaluation["error"]) if evaluation["error"] else None),
                ("model", evaluation["adapter"] or plain(evaluation["base_model"])),
                ("dataset", evaluation["dataset"]),
                ("pictures", f"{progress['samples']} of {progress['total_samples']}"),
            ]
        )
    )
    if figures:
        rows = [
            (
                figure["metric"],
                number_text(figure["value"]),
                number_text(figure["std"]),
                figure["samples"],
                figure["reference_images"],
                figure["reference"]["split"],
                plain(figure["extractor"]),
            )
            for figure in figures
        ]
        out.print(table(["metric", "#value", "#std", "#pictures", "#held out", "split", "network"], rows))
