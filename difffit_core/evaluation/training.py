"""Evaluations of a job while it trains: which are due, which are done, and what the model draws for them."""

import json
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from difffit_core.data.captions import read_items
from difffit_core.data.dataset import split, split_name
from difffit_core.evaluation.measure import Evaluation, chosen_items
from difffit_core.evaluation.metrics import EvaluationPlan, Reference
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.diffusion import DiffusionTask
from difffit_core.tasks.task import Examples, Task
from difffit_core.training.checkpoints import step_name
from difffit_core.training.events import EventLog

DONE = "evaluated.json"  # in a SPEC_DIR: the steps that an earlier attempt, which may have been elsewhere, has reported on


class JobEvaluations:
    """The evaluations of one SPEC_DIR. The constructor finds out whether they can be made, before anything is computed."""

    def __init__(self, spec: TrainingSpec, folder: Path, device: torch.device, events: EventLog) -> None:
        h = spec.hyperparameters
        assert h.resolution is not None  # what makes no pictures has no metrics
        self._folder, self._dataset, self._events = folder, folder / "dataset", events
        items = read_items(spec, folder)
        self._held_out = split(items, h.validation_fraction)[1]
        reference = Reference(dataset=spec.dataset.sha256, split=split_name(items, h.validation_fraction))
        plan = EvaluationPlan(
            metrics=h.evaluation_metrics,
            samples=h.evaluation_samples,
            seed=spec.seed,
            resolution=h.resolution,
            reference=reference,
        )
        self._evaluation = Evaluation(plan, spec.feature_weights, device)
        self._evaluation.check(self._held_out, "hyperparameters.validation_fraction")
        self._chosen = chosen_items(self._held_out, plan.samples)
        self._done = _reported(folder)

    def run(self, step: int, task: Task) -> None:
        """Report the figures of the model as it is now, unless that was done at this step before."""
        if step in self._done:
            return
        plan = self._evaluation.plan
        assert isinstance(task, DiffusionTask)  # others have no metrics

        def draw(rows: range) -> list[Image.Image]:
            items = [self._chosen[row] for row in rows]
            size = plan.resolution, plan.resolution  # that of the pictures which they are compared with
            with torch.autocast(task.device.type, enabled=False):
                tensors = task.encode_conditions(items, self._dataset, size)
            examples = Examples(items, {name: tensor.to(task.device) for name, tensor in tensors.items()}, size)
            return task.sample(examples, plan.seed + rows.start)

        def progress(done: int, of: int) -> None:
            self._events.emit("evaluating", step=step, done=done, total=of)

        folder = self._folder / "evaluations" / step_name(step)
        figures = self._evaluation.run(draw, self._chosen, self._held_out, self._folder, folder, progress)
        self._done.add(step)
        self._events.emit(
            "evaluation",
            step=step,
            samples=plan.samples,
            reference=plan.reference.model_dump(),
            figures=[figure.model_dump() for figure in figures],
        )


def _reported(folder: Path) -> set[int]:
    """The steps of the evaluations that were reported, here or by an earlier attempt elsewhere."""
    earlier = folder / DONE
    steps: set[int] = set(json.loads(earlier.read_text())) if earlier.exists() else set()
    log = folder / "events.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        with suppress(ValueError):  # a line that a killed trainer did not finish
            event = json.loads(line)
            if event["type"] == "evaluation":
                steps.add(event["step"])
    return steps
