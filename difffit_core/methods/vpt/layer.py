"""Trained tokens before a block's own; behind the block they are dropped, for each block has its own."""

from typing import Any

import torch
from torch import Tensor, nn


def add_tokens(block: nn.Module, tokens: Tensor) -> nn.Parameter:
    """Give a block, whose first argument is its tokens `[B, N, D]`, the trained tokens `[T, D]`, as its parameter `prompt`."""
    block.prompt = nn.Parameter(tokens)
    block.register_forward_pre_hook(prepend)
    block.register_forward_hook(drop)
    return block.prompt


def prepend(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook before the forward pass: `[B, N, D]` becomes `[B, T + N, D]`."""
    x: Tensor = inputs[0]
    prompt = block.prompt.to(x.dtype).expand(len(x), -1, -1)  # type: ignore[operator]
    return torch.cat([prompt, x], dim=1), *inputs[1:]


def drop(block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """A hook behind it: `[B, T + N, D]` becomes `[B, N, D]`."""
    return output[:, len(block.prompt) :]  # type: ignore[arg-type]
