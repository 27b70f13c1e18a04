"""What a kind of training has to say to the trainer."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from difffit_core.data.buckets import Size
from difffit_core.data.dataset import Item
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec

Tensors = dict[str, Tensor]
Progress = Callable[[int, int], None]  # (done, of) examples

SHOWN_NAMES = 10  # of examples, in a warning or an error


@dataclass(frozen=True)
class Examples:
    """Items of a dataset whose pictures are of one size, and what their task encoded them into, on the device."""

    items: list[Item]
    tensors: Tensors
    size: Size | None = None  # of the pictures, where there are any

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def classes(self) -> list[Tensor]:
        """The positions of each class's examples, in the order of the class names."""
        by_class: dict[str, list[int]] = defaultdict(list)
        for position, item in enumerate(self.items):
            by_class[item.label].append(position)
        return [torch.tensor(by_class[label]) for label in sorted(by_class)]


class Task(ABC):
    """One kind of training on one base. The constructor loads `model`, which the method is put into, and what else is trained.

    Everything random comes from `draw`, in tensors with a row for each example of the batch: whoever computes
    some rows of a batch, in whatever portions, computes them from the same numbers.
    """

    noisy: ClassVar[bool] = True  # the loss of an example varies with what is drawn: validation averages over several draws

    model: Any  # an nn.Module; diffusers and transformers add methods that it does not declare

    def __init__(self, spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> None:
        self.spec, self.h, self.base, self.device = spec, spec.hyperparameters, base, device
        self.class_names: list[str] = []

    def prepare(self) -> None:
        """Put the method in; afterwards exactly what is trained requires gradients."""
        prepare(self.model, self.spec.method)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in the adapter."""
        return trained_parameters(self.model)

    def warnings(self, items: list[Item]) -> list[str]:
        """What a user should know of these examples before they are trained on."""
        return []

    def usable(self, items: list[Item]) -> tuple[list[Item], list[str]]:
        """Those of the examples that can be trained on, and what a user should know of the others. Raises DatasetError."""
        return items, []

    def compiled_parts(self) -> list[nn.Module]:
        """The modules to compile, each by itself."""
        return [self.model]

    def modules(self) -> list[nn.Module]:
        """Every network that takes part in the loss, once `load_frozen` has been called."""
        return [self.model]

    @abstractmethod
    def use_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""

    @abstractmethod
    def load_frozen(self) -> None:
        """Load what takes part in the loss and is not trained."""

    @abstractmethod
    def release(self) -> None:
        """Let go of what only encodes examples and makes pictures; it is loaded again when it is needed."""

    @abstractmethod
    def encode(self, items: list[Item], folder: Path, size: Size | None, progress: Progress) -> Tensors:
        """The tensors of `items`, on the CPU, of pictures brought to `size`.

        Raises DatasetError that names an item that cannot be used.
        """

    @abstractmethod
    def blank(self, count: int) -> Examples:
        """So many examples without content as `encode` makes them at their largest, on the CPU: for plans."""

    @abstractmethod
    def draw(self, examples: Examples, batch: int, generator: torch.Generator) -> Tensors:
        """The random numbers `[batch, ...]` of a training step, on the CPU."""

    @abstractmethod
    def fixed_draw(self, examples: Examples, batch: int, generator: torch.Generator) -> Tensors:
        """The same for validation: nothing dropped or mirrored, and timesteps spread evenly."""

    @abstractmethod
    def loss(self, examples: Examples, indices: Tensor, drawn: Tensors) -> Tensor:
        """The loss `[B]` of the examples at `indices` `[B]` with the numbers `drawn` `[B, ...]`, all on the device."""

    @abstractmethod
    def preview(self, buckets: Sequence[Examples], stem: Path) -> tuple[Path, list[str]]:
        """Write what the model makes now to `stem` with a suffix of the task's; returns the file and a label for each row.

        What it is told is taken from the examples, which lie in buckets of one size each.
        """
