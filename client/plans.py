"""What `difffit jobs create --dry-run` shows: a job's plan, and what it needs."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

from client.console import facts, or_json, out, plain, size_text, table
from client.responses import Plan
from difffit_core.tasks.words import words_of


@or_json
def present_plan(answer: Plan) -> None:
    """The resolved values, then what the job needs."""
    plan = answer["plan"]
    dataset = plan["dataset"]
    out.print(
        facts(
            [
                ("base model", plan["base_model"]),
                ("method", plan["method"]["type"]),
                ("dataset", _examples(plan["task"]["type"], dataset["classes"])),
                ("seed", plan["seed"]),
            ]
        )
    )
    out.print(table(["hyperparameter", "#value"], plan["hyperparameters"].items()))
    out.print(facts(needs_of(answer)))


def _examples(task: str, classes: Mapping[str, int]) -> str:
    """How many there are, and of how many classes where they have any."""
    named = len(classes.keys() - {""})
    return f"{sum(classes.values())} {words_of(task).examples}" + (f" of {named} classes" if named else "")


def needs_of(answer: Plan) -> Iterator[tuple[str, str]]:
    """Size, memory and time, or why they are not known."""
    if answer["estimate"] is None:
        yield "memory", plain(answer["no_estimate"])
    else:
        estimate, memory = answer["estimate"], answer["estimate"]["memory"]
        error, fitting = memory["error"], estimate["largest_micro_batch_size"]
        yield "trained parameters", f"{estimate['trained_parameters']:,} of {estimate['total_parameters']:,}"
        yield "adapter", size_text(estimate["adapter_bytes"])
        of_device = f"of {size_text(estimate['device_bytes'])} on {plain(estimate['device'])}"
        yield "memory", f"{size_text(memory['total'])} {of_device}" + (f", give or take {error:.0%}" if error else "")
        for name, value in memory.items():
            if name not in ("total", "error"):
                yield f"  {name.replace('_', ' ')}", size_text(value)
        if rows := estimate.get("rows"):
            used = f"{rows['kept']} of {rows['total']} are used"
            yield "rows", f"{used}; {rows['overlong']} are too long, the longest has {rows['longest']} tokens"
        yield "micro-batch", f"{estimate['micro_batch_size']} planned, {fitting or 'not even 1'} fits"
    if answer["duration"] is None:
        yield "time", plain(answer["no_duration"])
    else:
        duration = answer["duration"]
        a_step, total = f"{duration['seconds_per_step']:.3g} s", timedelta(seconds=round(duration["total_seconds"]))
        yield "time", f"{total} of steps, {a_step} each, as the last {duration['jobs']} on {plain(duration['device'])} took"
