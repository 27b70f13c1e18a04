"""Attention and GELU in bf16 on a CPU, where PyTorch's own kernels take most of a small model's training step."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from difffit_core.runtime.fake_weights import has_numbers

SCORES = 1 << 20  # that are worked on at a time: what stays in a few megabytes of cache
ELEMENTS = 1 << 17  # the same for GELU, which holds four numbers in fp32 for each

# GELU in its tanh form is x·σ(v) with v = x·(A + B·x²), since 1 + tanh(u) = 2·σ(2u); a CPU's σ is far faster than its tanh.
A = 2 * math.sqrt(2 / math.pi)
B = A * 0.044715


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of `[B, heads, N, C]` tensors, scaled by 1/√C, as `F.scaled_dot_product_attention`.

    In bf16 on a CPU it multiplies whole matrices instead of small tiles, which is two to four times as fast (forward and
    backward, 64 to 256 tokens), and keeps its inputs only. Scores are rounded to bf16. Everywhere else it is PyTorch's.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[-2] == key.shape[-2]:
        output: Tensor = _Attention.apply(query, key, value)
        return output
    return F.scaled_dot_product_attention(query, key, value)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        output = _empty_like(query)
        for part in _parts(query):
            output[part] = _probabilities(query[part], key[part]) @ value[part]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        to_query, to_key, to_value = _empty_like(query), _empty_like(query), _empty_like(query)
        for part in _parts(query):
            p = _probabilities(query[part], key[part])  # [b, heads, N, N]
            to_value[part] = p.mT @ gradient[part]
            to_p = gradient[part] @ value[part].mT
            to_scores = torch._softmax_backward_data(to_p, p, -1, p.dtype).mul_(query.shape[-1] ** -0.5)
            to_query[part] = to_scores @ key[part]
            to_key[part] = to_scores.mT @ query[part]
        return to_query, to_key, to_value


def _parts(query: Tensor) -> list[slice]:
    """The batch in slices whose score matrices stay in the cache."""
    samples = max(1, SCORES // (query.shape[1] * query.shape[2] ** 2))
    return _slices(query, len(query), samples)


def _slices(tensor: Tensor, length: int, size: int) -> list[slice]:
    """Of so many each; where there are no numbers to compute, the first takes as much memory as any."""
    return [slice(start, start + size) for start in range(0, length if has_numbers(tensor) else min(length, size), size)]


def _probabilities(query: Tensor, key: Tensor) -> Tensor:
    scores = (query @ key.mT).float().mul_(query.shape[-1] ** -0.5)
    return torch.softmax(scores, -1, out=scores).to(query.dtype)


def _empty_like(query: Tensor) -> Tensor:
    """`[B, heads, N, C]` laid out as `[B, N, heads, C]`, so that heads are split and joined without a copy."""
    batch, heads, length, channels = query.shape
    return query.new_empty(batch, length, heads, channels).transpose(1, 2)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form of a tensor of any shape, as `F.gelu(x, approximate="tanh")`.

    In bf16 on a CPU it takes little more than half the time, forward and backward, and keeps its derivative in the place of
    its input. Everywhere else, and in compiled code, it is PyTorch's.
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.compiler.is_compiling():
        output: Tensor = _GeluTanh.apply(x)
        return output
    return F.gelu(x, approximate="tanh")


class _GeluTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        output, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for part in _slices(x, x.numel(), ELEMENTS):
            u = x.view(-1)[part].float()
            square = u * u
            sigmoid = square.mul(B).add_(A).mul_(u).sigmoid_()
            y = u.mul_(sigmoid)
            output.view(-1)[part] = y
            if slope is not None:  # σ + xσ·(1 − σ)·(A + 3B·x²)
                square.mul_(3 * B).add_(A).mul_(y)
                slope.view(-1)[part] = square.addcmul_(square, sigmoid, value=-1).add_(sigmoid)
        ctx.save_for_backward(slope)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        product: Tensor = gradient * slope
        return product
