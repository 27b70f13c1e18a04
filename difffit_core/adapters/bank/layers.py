"""What stands in for the forward of one module of the base while each sample of a batch has an adapter of its own."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difffit_core.errors import AdapterError


@dataclass(frozen=True)
class Values:
    """What one adapter makes of one module: the product of its scale factors `[C]`, and its own parameters."""

    scale: Tensor | None = None
    own: dict[str, Tensor] = field(default_factory=dict)


class Batch:
    """Which row of the layers' tables each sample uses; row 0 is the plain base."""

    def __init__(self, rows: Sequence[int], device: torch.device) -> None:
        order = sorted(range(len(rows)), key=rows.__getitem__)
        self.rows = torch.tensor(rows, device=device)  # [B]
        self.order = torch.tensor(order, device=device)  # the samples, those of one row side by side
        self.back = torch.argsort(self.order)
        self.groups = {row: rows.count(row) for row in sorted(set(rows))}  # how many samples use each row


class BankedLayer(ABC):
    """A module whose output depends on the sample's adapter. Its parameters are read and never changed."""

    def __init__(self, path: str, module: nn.Module, current: Callable[[], Batch | None]) -> None:
        self.path, self.module, self._current = path, module, current
        module.forward = self.forward

    def remove(self) -> None:
        """Give the module its own forward back."""
        del self.module.forward

    def forward(self, x: Tensor) -> Tensor:
        batch = self._current()
        if batch is None:
            plain: Tensor = type(self.module).forward(self.module, x)
            return plain
        if len(x) != len(batch.rows):
            raise AdapterError(
                f"{self.path} was given {len(x)} samples, but adapters are named for {len(batch.rows)}. Name one for every "
                "sample of the batch; a batch for classifier-free guidance holds each picture twice.",
                code="batch_mismatch",
                param=self.path,
            )
        return self.mixed(x, batch)

    @abstractmethod
    def fill(self, adapters: Sequence[Values]) -> None:
        """Build the tables: row 0 for the base, then one for each adapter of the bank."""

    @abstractmethod
    def mixed(self, x: Tensor, batch: Batch) -> Tensor:
        """The output for `x`, whose samples (dimension 0) have the adapters of `batch`."""


class BankedLinear(BankedLayer):
    """A Linear or a convolution: `γ * (W x) + γ * b`, both vectors those of the sample's adapter.

    Where adapters train the matrix itself, as ControlNet's do for its zero convolutions, the samples of each adapter go
    through its matrix together.
    """

    module: nn.Linear | nn.Conv2d

    def fill(self, adapters: Sequence[Values]) -> None:
        rows, weight = [Values(), *adapters], self.module.weight
        ones = torch.ones(len(weight), device=weight.device)
        bias = torch.zeros_like(ones) if self.module.bias is None else self.module.bias.float()
        scales = torch.stack([ones if row.scale is None else row.scale for row in rows])  # [A + 1, C]
        self._scales = scales if any(row.scale is not None for row in rows) else None
        self._shifts = scales * torch.stack([row.own.get("bias", bias) for row in rows])  # [A + 1, C]
        self._matrices = [row.own.get("weight", weight).to(weight.dtype) for row in rows]
        self._own_matrix_only = not any("weight" in row.own for row in rows)

    def mixed(self, x: Tensor, batch: Batch) -> Tensor:
        product = self._product(x, batch)
        channels = 1 if isinstance(self.module, nn.Conv2d) else -1
        return affine(product, self._scales, self._shifts, batch.rows, channels)

    def _product(self, x: Tensor, batch: Batch) -> Tensor:
        if self._own_matrix_only:
            return self._times(x, self.module.weight)
        parts = zip(batch.groups, x[batch.order].split(list(batch.groups.values())), strict=True)
        return torch.cat([self._times(part, self._matrices[row]) for row, part in parts])[batch.back]

    def _times(self, x: Tensor, weight: Tensor) -> Tensor:
        if isinstance(self.module, nn.Conv2d):
            convolved: Tensor = self.module._conv_forward(x, weight, None)
            return convolved
        return F.linear(x, weight)


class BankedNorm(BankedLayer):
    """A layer, group or root-mean-square norm whose weight and bias are those of the sample's adapter."""

    def __init__(self, path: str, module: nn.Module, current: Callable[[], Batch | None]) -> None:
        self._bare = copy.copy(module)  # the same norm, its weight 1 and its bias 0
        self._bare._parameters = {
            name: parameter if parameter is None else nn.Parameter(torch.full_like(parameter, float(name == "weight")), False)
            for name, parameter in module._parameters.items()
        }
        super().__init__(path, module, current)

    def fill(self, adapters: Sequence[Values]) -> None:
        rows = [
            {k: v for k, v in (self.module._parameters | row.own).items() if v is not None} for row in (Values(), *adapters)
        ]
        ones = torch.ones_like(next(value for row in rows for value in row.values()), dtype=torch.float32)
        self._scales = torch.stack([row.get("weight", ones).float() for row in rows])  # [A + 1, C]
        self._shifts = torch.stack([row.get("bias", ones * 0).float() for row in rows])  # [A + 1, C]

    def mixed(self, x: Tensor, batch: Batch) -> Tensor:
        channels = 1 if isinstance(self.module, nn.GroupNorm) else -1
        return affine(self._bare(x), self._scales, self._shifts, batch.rows, channels)


def affine(x: Tensor, scales: Tensor | None, shifts: Tensor, rows: Tensor, channels: int) -> Tensor:
    """`scale * x + shift`; the vectors of each sample, rows `[B]` of `[A + 1, C]`, lie along dimension `channels` of `x`."""
    shape = [len(rows)] + [1] * (x.ndim - 1)
    shape[channels] = -1
    shift = shifts[rows].to(x.dtype).view(shape)
    if scales is None:
        return x + shift
    return torch.addcmul(shift, x, scales[rows].to(x.dtype).view(shape))


class BankedTable(BankedLayer):
    """A table of classes: each adapter has its own label space, whose last row is the null class."""

    module: nn.Embedding

    def fill(self, adapters: Sequence[Values]) -> None:
        tables = [row.own.get("weight", self.module.weight).float() for row in (Values(), *adapters)]  # [classes + 1, D] each
        self._table = torch.cat(tables).to(self.module.weight.dtype)  # [all classes, D]
        sizes = torch.tensor([len(table) for table in tables], device=self._table.device)
        self._sizes, self._offsets = sizes, sizes.cumsum(0) - sizes  # [A + 1]

    def mixed(self, x: Tensor, batch: Batch) -> Tensor:
        shape = [len(x)] + [1] * (x.ndim - 1)
        sizes, offsets = self._sizes[batch.rows].view(shape), self._offsets[batch.rows].view(shape)
        fitting = (x >= 0) & (x < sizes)
        if x.device.type == "cpu" and not fitting.all():
            sample = int((~fitting).nonzero()[0, 0])
            raise AdapterError(
                f"{self.path}: sample {sample} asks for class {x[sample].tolist()}, but its adapter knows only "
                f"0 to {int(self._sizes[batch.rows[sample]]) - 1}, the last of which is the null class.",
                code="unknown_label",
                param=self.path,
            )
        # Elsewhere a wrong class fails in the lookup, as it does in nn.Embedding, instead of reading another's table.
        return F.embedding(torch.where(fitting, x + offsets, len(self._table)), self._table)
