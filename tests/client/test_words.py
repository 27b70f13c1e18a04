"""People are told of pictures where there are pictures, and of texts where there are texts."""

import io
from typing import Any, get_args

import pytest
from rich.console import Console

from client.plans import present_plan
from client.progress import TrainingView
from client.responses import Plan
from difffit_core.tasks.config import TaskName
from difffit_core.tasks.words import WORDS, words_of

PROGRESS = {"step": 2, "total_steps": 2, "train_loss": 1.0, "samples_per_second": 0.31, "seconds_remaining": 9}


def test_every_task_has_its_words() -> None:
    assert WORDS.keys() == set(get_args(TaskName))
    assert words_of("a task of tomorrow").results == "images"


@pytest.mark.parametrize(("task", "told"), [("instruction", "0.31 rows/s"), ("class-conditional", "0.31 images/s")])
def test_a_rate_has_its_unit_and_is_not_rounded_to_nothing(task: str, told: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    with TrainingView(console, task) as view:
        view.show({"sequence": 1, "type": "progress", "data": PROGRESS})
    assert told in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "classes", "told"),
    [
        ("instruction", {"": 114}, "114 rows\n"),
        ("text-to-image", {"": 7}, "7 images\n"),
        ("class-conditional", {"cat": 3, "dog": 4}, "7 images of 2 classes\n"),
    ],
)
def test_a_plan_counts_what_is_learned(
    task: str, classes: dict[str, int], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan: dict[str, Any] = {"base_model": "b", "task": {"type": task}, "method": {"type": "difffit"}, "seed": 0}
    plan |= {"dataset": {"classes": classes}, "hyperparameters": {}}
    answer: Plan = {"plan": plan, "estimate": None, "no_estimate": "x", "duration": None, "no_duration": "y"}
    present_plan(answer, False)
    shown = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert told in shown
