"""What a training will need: counted and computed from the base's configs, without its weights and in seconds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from difffit_core.planning.estimate import Estimate, Memory
from difffit_core.runtime.devices import device_name, total_memory
from difffit_core.runtime.fake_weights import without_weights
from difffit_core.runtime.live_bytes import LiveBytes, storage_bytes
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.registry import ready_task
from difffit_core.tasks.task import Task, Tensors
from difffit_core.training.frozen_base import count_numbers
from difffit_core.training.state import random_generator

USABLE = 0.9  # of a device's memory: a driver, the framework itself and gaps between tensors take the rest
FOLLOWED = 8  # examples of which a step is followed, at most: beyond, each takes as much as those before
BYTES = 4  # of a number of an adapter, which is fp32
# Of what a step takes: a CPU's heap has gaps between tensors that come and go. A GPU's allocator has few.
GAPS = {"cpu": 0.6}  # by type of device, as `benchmarks/plan_memory.py` has found
ERRORS = {"cpu": 0.35}  # by type of device: what `benchmarks/plan_memory.py` has found


def estimate(spec: TrainingSpec, device: torch.device) -> Estimate:
    """What training `spec` on `device` takes. Raises DiffFitError where the base cannot be trained so, as its configs tell."""
    base = spec.base()
    with without_weights():
        task = ready_task(spec, base, device)
        task.load_frozen()
        return _estimate(spec, task, device)


def _estimate(spec: TrainingSpec, task: Task, device: torch.device) -> Estimate:
    trained = list(task.parameters().values())
    values = storage_bytes(trained)
    resident = {
        "frozen_weights": storage_bytes(_tensors(task)) - values,
        "trained_values": values,
        "optimizer": 2 * values,  # the moments of AdamW
        "ema": values,
        "examples": storage_bytes(task.blank(spec.dataset.examples).tensors.values()),
    }
    steps = Steps(task, gradients=values)
    available = total_memory(device)
    held = min(spec.hyperparameters.micro_batch_size, spec.hyperparameters.batch_size)

    def of_step(held: int) -> int:
        return max(values, steps.peak(held))  # the update needs all gradients, and nothing else

    def gaps(held: int) -> int:
        return int(GAPS.get(device.type, 0.0) * of_step(held))

    def total(held: int) -> int:
        return sum(resident.values()) + of_step(held) + gaps(held)

    fixed, of_example = steps.activations(held)
    memory = Memory(
        **resident,
        gradients=values,
        activations_fixed=fixed,
        activations_per_example=of_example,
        allocator=gaps(held),
        total=total(held),
        error=ERRORS.get(device.type),
    )
    return Estimate(
        device=device_name(device),
        device_bytes=available,
        trained_parameters=sum(parameter.numel() for parameter in trained),
        total_parameters=count_numbers(task.model, trained),
        adapter_bytes=BYTES * sum(parameter.numel() for parameter in trained),
        memory=memory,
        micro_batch_size=held,
        largest_micro_batch_size=next(
            (size for size in _halves(spec.hyperparameters.batch_size) if total(size) <= USABLE * available), None
        ),
    )


def _tensors(task: Task) -> Iterable[Tensor]:
    for module in task.modules():
        yield from module.parameters()
        yield from module.buffers()


def _halves(size: int) -> Iterator[int]:
    """What a job is tried with, one after the other, when memory runs out."""
    while size:
        yield size
        size //= 2


@dataclass(frozen=True)
class Followed:
    """The most bytes that a step has taken at once beside what is there before it."""

    activations: int
    peak: int  # with the gradients that are there at that moment


class Steps:
    """What steps of a task take that hold so many of a batch's examples at a time."""

    def __init__(self, task: Task, gradients: int) -> None:
        self._task, self._batch, self._gradients = task, task.h.batch_size, gradients
        self._follow = cache(partial(follow_step, task))

    def peak(self, held: int) -> int:
        """Bytes at the moment of the most; where a batch comes in portions, the gradients of those before are there."""
        if held < self._batch:
            fixed, of_example = self.activations(held)
            return self._gradients + fixed + held * of_example
        if held <= FOLLOWED:
            return self._follow(held).peak
        half, whole = self._follow(FOLLOWED // 2).peak, self._follow(FOLLOWED).peak
        return whole + (held - FOLLOWED) * (whole - half) // (FOLLOWED // 2)

    def activations(self, held: int) -> tuple[int, int]:
        """(Fixed, of each example) in bytes."""
        some = max(1, min(held, FOLLOWED) // 2)
        less, more = self._follow(some).activations, self._follow(2 * some).activations
        of_example = (more - less) // some
        return max(0, less - some * of_example), of_example


def follow_step(task: Task, held: int) -> Followed:
    """Compute the gradients of so many blank examples, without weights."""

    def on_device(tensors: Tensors) -> Tensors:
        return {name: tensor.to(task.device) for name, tensor in tensors.items()}

    examples = task.blank(held)
    drawn = on_device(task.draw(examples, held, random_generator(0, "step", 0)))
    examples.tensors.update(on_device(examples.tensors))
    indices = torch.arange(held, device=task.device)
    parameters = task.parameters().values()
    there = [*_tensors(task), *examples.tensors.values(), *drawn.values(), indices]
    with LiveBytes(there, parameters) as live:
        task.loss(examples, indices, drawn).sum().backward()
    for parameter in parameters:
        parameter.grad = None
    return Followed(live.peak_activations, live.peak)
