"""Number formats in which a frozen matrix takes less memory than in fp32: bf16, int8 and NF4."""

from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difffit_core.spec.job import BasePrecision

BLOCK = 64  # numbers that share one NF4 step, as in QLoRA (Dettmers et al., arXiv 2305.14314)


def nf4_levels() -> list[float]:
    """The 16 values of NF4, ascending from -1 to 1: quantiles of a normal distribution, eight negative, zero, seven positive.

    QLoRA (section 3) spaces the probabilities evenly from the middle to the mean of 1 - 1/32 and 1 - 1/30.
    """
    last = 1 - (1 / 32 + 1 / 30) / 2

    def half(count: int) -> list[float]:
        return [NormalDist().inv_cdf(0.5 + (last - 0.5) * i / count) for i in range(1, count + 1)]

    levels = [-value for value in reversed(half(7))] + [0.0] + half(8)
    return [value / levels[-1] for value in levels]


NF4_LEVELS = nf4_levels()


class PackedWeight(nn.Module):
    """A frozen weight `[out, in]` in bf16, int8 (a step for each row) or NF4 (a step for each 64 numbers, two to a byte)."""

    payload: Tensor
    steps: Tensor | None
    requires_grad = False

    def __init__(self, weight: Tensor, precision: BasePrecision) -> None:
        super().__init__()
        self.shape = weight.shape
        payload, steps = pack(weight.detach().float(), precision)
        self.register_buffer("payload", payload)
        self.register_buffer("steps", steps)

    def nbytes(self) -> int:
        return self.payload.nbytes + (0 if self.steps is None else self.steps.nbytes)


def pack(weight: Tensor, precision: BasePrecision) -> tuple[Tensor, Tensor | None]:
    """The numbers of an fp32 weight `[out, in]` in a format, and its steps, if it has any."""
    match precision:
        case "fp32":
            return weight, None
        case "bf16":
            return weight.bfloat16(), None
        case "int8":
            steps = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127  # [out, 1]
            return (weight / steps).round().to(torch.int8), steps
        case "nf4":
            blocks = F.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
            steps = blocks.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)  # [blocks, 1]
            levels = torch.tensor(NF4_LEVELS, device=weight.device)
            codes = torch.bucketize(blocks / steps, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)  # [blocks, 64]
            return codes[:, 0::2] << 4 | codes[:, 1::2], steps


def unpack(payload: Tensor, steps: Tensor | None, shape: torch.Size) -> Tensor:
    """The weight `[out, in]` that a payload and its steps stand for; a payload without steps is one."""
    if steps is None:
        return payload
    if payload.dtype == torch.int8:
        return payload * steps
    levels = torch.tensor(NF4_LEVELS, device=payload.device)
    codes = torch.stack([payload >> 4, payload & 15], dim=-1).flatten(1)  # [blocks, 64]
    return (levels[codes.int()] * steps).flatten()[: shape.numel()].view(shape)
