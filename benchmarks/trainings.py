"""A training on examples without meaning, step by step as the trainer takes it, and the rate of matrix products beside it."""

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.bases import BASES
from difffit_core.methods.config import named_method
from difffit_core.runtime.devices import training_autocast
from difffit_core.runtime.fake_weights import random_weights
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import DatasetSummary, JobSpec, TrainingSpec
from difffit_core.spec.resolve import resolve
from difffit_core.tasks.config import FIELDS_OF_TASK
from difffit_core.tasks.registry import ready_task
from difffit_core.tasks.task import Task, Tensors
from difffit_core.training.state import TrainingState, random_generator


def job(base: BaseModelEntry, method: str, examples: int, task: dict[str, Any] | None = None, **settings: Any) -> TrainingSpec:
    """A plan with every "auto" resolved; `task` is the base's first unless it is given, `settings` are hyperparameters."""
    body = {"base_model": base.id, "dataset": "ds", "method": named_method(method).model_dump(), "hyperparameters": settings}
    spec = JobSpec.model_validate(body | ({} if task is None else {"task": task}))
    holds = sorted({field for name in base.tasks for field in FIELDS_OF_TASK[name]})
    classes = {"a": examples // 2, "b": examples - examples // 2}
    return resolve(spec, base, DatasetSummary.model_validate({"sha256": "0" * 64, "classes": classes, "holds": holds}))


def load(spec: TrainingSpec, device: torch.device) -> Task:
    """The task as the trainer has it before its first step; a base of `benchmarks.bases` gets random weights."""
    base = spec.base()
    if spec.base_model not in BASES:
        task = ready_task(spec, base, device)
        task.load_frozen()
        return task
    with random_weights(device):
        task = ready_task(spec, base, device)
        task.load_frozen()
    return task


class Training:
    """A task with its optimiser and as many examples as the dataset has; a call is one step of the trainer."""

    def __init__(self, task: Task) -> None:
        self.task, self.h, self.device = task, task.h, task.device
        self.state = TrainingState(task.parameters(), self.h, task.spec.seed)
        self.examples = task.blank(task.spec.dataset.examples)
        for name, tensor in self.examples.tensors.items():
            self.examples.tensors[name] = (tensor.normal_() if tensor.is_floating_point() else tensor).to(self.device)

    def __call__(self) -> float:
        """Draw, compute and update; returns the loss, which waits for the device as the trainer does."""
        return self.compute(self.drawn())

    def drawn(self) -> Tensors:
        """The random numbers of the next step, on the CPU."""
        return self.task.draw(self.examples, self.h.batch_size, random_generator(0, "step", self.state.step))

    def compute(self, drawn: Tensors) -> float:
        loss = torch.zeros((), device=self.device)
        for portion in torch.arange(self.h.batch_size).split(self.h.micro_batch_size):
            rows = {name: tensor[portion].to(self.device) for name, tensor in drawn.items()}
            losses: Tensor = self.task.loss(self.examples, portion.to(self.device), rows)
            part = losses.sum() / self.h.batch_size
            part.backward()
            loss += part.detach()
        self.state.update()
        return float(loss)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_flops_per_second(device: torch.device, size: int, rounds: int = 20) -> float:
    """The rate of one large square matrix product in the precision that training multiplies in: the median of `rounds`."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    with training_autocast(device):
        dtype = (a[:1, :1] @ b[:1, :1]).dtype
    a, b = a.to(dtype), b.to(dtype)
    seconds = []
    for _ in range(rounds):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds)


def precision(device: torch.device) -> str:
    with training_autocast(device):
        return "bf16" if torch.is_autocast_enabled(device.type) else "fp32"
