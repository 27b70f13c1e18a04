"""`difffit jobs`: create, watch, list, show, cancel, pause, resume, retry, delete."""

from typing import Annotated, Any

import typer

from client.api import ENDED, Client
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
    when,
)
from client.options import After, AsJson, Limit, named_values
from client.plans import present_plan
from client.progress import TrainingView
from client.responses import Job
from difffit_core.tasks.words import words_of

app = typer.Typer(no_args_is_help=True, help="Train adapters.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="An id such as job_….")]


@app.command()
def create(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help="The dataset's id, ds_….")],
    base: Annotated[str, typer.Option(help="The base model; see `difffit models list`.")] = "emoji-dit",
    task: Annotated[
        str | None,
        typer.Option(help="What to train: text-to-image, dreambooth, controlnet, …; absent: the base's first task."),
    ] = None,
    task_settings: Annotated[
        list[str] | None,
        typer.Option("--task-set", metavar="NAME=VALUE", help="A setting of the task, such as subject=dog; repeatable."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="How to fine-tune: difffit, bitfit, lora, adapter-parallel, adapter-sequential, vpt-deep or full."),
    ] = "difffit",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A hyperparameter, such as steps=300 or learning_rate=auto; repeatable."
        ),
    ] = None,
    method_settings: Annotated[
        list[str] | None,
        typer.Option("--method-set", metavar="NAME=VALUE", help="A setting of the method, such as rank=16; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, data and settings give the same adapter.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    priority: Annotated[int | None, typer.Option(help="-100 to 100; higher is sooner, among your own jobs.")] = None,
    max_duration: Annotated[int | None, typer.Option(metavar="SECONDS", help="Fail after so long with a worker.")] = None,
    init_adapter: Annotated[str | None, typer.Option(metavar="ADAPTER", help="Begin with this adapter's values.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show every resolved value, size, memory and time; start nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and watch the training.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a training job."""
    spec: dict[str, Any] = {"base_model": base, "dataset": dataset, "method": {"type": method}}
    spec["method"] |= named_values(method_settings or [], "--method-set")
    spec |= {"hyperparameters": named_values(settings or [])}
    if task is not None:
        spec["task"] = {"type": task} | named_values(task_settings or [], "--task-set")
    elif task_settings:
        raise typer.BadParameter("Name the task by --task.", param_hint="--task-set")
    given = {"seed": seed, "name": name, "priority": priority, "max_duration": max_duration, "init_adapter": init_adapter}
    spec |= {key: value for key, value in given.items() if value is not None}
    with connect(context) as client:
        if dry_run:
            present_plan(client.plan_job(spec), as_json)
            return
        job = client.create_job(spec)
        if watch:
            follow(client, job, as_json)
            return
    present(job, as_json)
    note(f"Watch it:  difffit jobs watch {job['id']}")


@app.command()
def watch(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Watch a job until it ends. Ctrl-C stops the watching, not the job."""
    with connect(context) as client:
        follow(client, client.job(job_id), as_json)


def follow(client: Client, job: Job, as_json: bool) -> None:
    """Show a job's events as they happen, then its result; exits with 1 where the job has not succeeded."""
    ahead = job["progress"]["queue_position"]
    if job["status"] not in ENDED:
        note(f"job [bold]{job['id']}[/]" + (f", place {ahead} in the queue" if ahead else ""))
    again = f"The job goes on. Watch it again:  difffit jobs watch {job['id']}\nCancel it:  difffit jobs cancel {job['id']}"
    with interruptible(again), TrainingView(err, job["task"]["type"]) as view:
        for event in client.watch_job(job["id"]):
            view.show(event)
    job = client.job(job["id"])
    present(job, as_json)
    if job["status"] != "succeeded":
        raise typer.Exit(1)
    asked_by = words_of(job["task"]["type"]).asked_by
    note(f"Use it:  difffit generate --adapter {job['adapter']} {asked_by}")
    note(f"Keep it:  difffit adapters download {job['adapter']}")


COLUMNS: Columns[Job] = {
    "id": lambda job: job["id"],
    "name": lambda job: plain(job["name"] or ""),
    "status": lambda job: status_text(job["status"]),
    "base": lambda job: plain(job["base_model"]),
    "method": lambda job: job["method"]["type"],
    "#steps": lambda job: f"{job['progress']['step']}/{job['progress']['total_steps']}",
    "#validation": lambda job: number_text(job["losses"]["validation"]),
    "created": lambda job: when(job["created_at"]),
}


@app.command("list")
def list_jobs(context: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """List jobs, newest first."""
    with connect(context) as client:
        show_page(client.jobs(limit=limit, after=after), as_json, COLUMNS)


@app.command()
def show(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job."""
    with connect(context) as client:
        present(client.job(job_id), as_json)


@app.command()
def cancel(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job; a running one finishes its step and stops."""
    with connect(context) as client:
        present(client.cancel_job(job_id), as_json)


@app.command()
def pause(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Pause a job; a running one writes a checkpoint and leaves its place to others."""
    with connect(context) as client:
        present(client.pause_job(job_id), as_json)


@app.command()
def resume(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Put a paused job back into the queue; it goes on exactly where it stopped."""
    with connect(context) as client:
        present(client.resume_job(job_id), as_json)


@app.command()
def retry(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Queue a failed or cancelled job once more; it goes on from its last checkpoint."""
    with connect(context) as client:
        present(client.retry_job(job_id), as_json)


@app.command()
def delete(context: typer.Context, job_id: JobId) -> None:
    """Delete a job that has ended, with its checkpoints, samples and logs; its adapter stays."""
    with connect(context) as client:
        client.delete_job(job_id)


@or_json
def present(job: Job) -> None:
    progress, losses = job["progress"], job["losses"]
    trained = job["trained_parameters"]
    base, tuned = number_text(losses["validation_base"]), number_text(losses["validation"])
    out.print(
        facts(
            [
                ("job", f"[bold]{job['id']}[/]"),
                ("name", None if job["name"] is None else plain(job["name"])),
                ("status", status_text(job["status"])),
                ("error", problem_text(job["error"]) if job["error"] else None),
                ("base model", plain(job["base_model"])),
                ("dataset", job["dataset"]),
                ("method", job["method"]["type"]),
                ("steps", f"{progress['step']} of {progress['total_steps']}"),
                ("place in queue", progress["queue_position"]),
                ("priority", job["priority"] or None),
                ("trained parameters", f"{trained:,} of {job['total_parameters']:,}" if trained else None),
                ("validation loss", f"{base} before, {tuned} now" if losses["validation"] is not None else None),
                ("adapter", job["adapter"] and f"[bold]{job['adapter']}[/]"),
            ]
        )
    )
