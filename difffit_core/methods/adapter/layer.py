"""The bottleneck that an adapter adds to a block, beside its MLP or behind it."""

from typing import Any

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """`scale * up(relu(down(x)))` on `[..., D]`. `up` starts at zero, so that it changes nothing until it is trained."""

    def __init__(self, width: int, middle: int, scale: float, like: Tensor) -> None:
        super().__init__()
        self.down = nn.Linear(width, middle, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(middle, width, device=like.device, dtype=like.dtype)
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.up(torch.relu(self.down(x)))
        return self.scale * output


def beside(mlp: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """A forward hook: the MLP's output `[..., D]` plus the adapter of its input `[..., D]`."""
    return output + mlp.adapter(inputs[0])  # type: ignore[no-any-return, operator]


def behind(mlp: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """A forward hook: the MLP's output `[..., D]` plus the adapter of it."""
    return output + mlp.adapter(output)  # type: ignore[no-any-return, operator]
