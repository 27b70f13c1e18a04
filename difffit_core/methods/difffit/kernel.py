"""`γ * (W x + b)` with a frozen W as one autograd function, which keeps nothing but its own output."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# A γ closer to zero is taken as this, so that the output can be divided by it: γ's gradient is right at γ = 0 too, and
# the output is off by 5e-20 of W x + b, far below what fp32 and bf16 resolve (fp16 would; it is not trained in here).
SMALLEST = 2.0**-64


def scaled_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """`scale * (weight x + bias)` of x `[..., in]`, weight `[out, in]`, bias and scale `[out]`; returns `[..., out]`.

    Under autocast it multiplies in autocast's precision. A frozen weight (the usual case) gets no gradient: scale is
    multiplied into the weight instead of the output, and scale's gradient is taken from the output, `Σ g·z/γ`, which
    the next operation keeps anyway; x and W x + b are not kept. A weight that is trained takes the plain formula.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    if weight.requires_grad:
        return F.linear(x, weight, bias) * scale.to(x.dtype)
    output: Tensor = _ScaledLinear.apply(x, weight, bias, scale)
    return output


class _ScaledLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
        scale = torch.where(scale.abs() < SMALLEST, SMALLEST, scale)
        shift = None if bias is None else (scale * bias).to(x.dtype)
        output = F.linear(x, scaled_weight(weight, scale, x.dtype), shift)  # [..., out]
        ctx.save_for_backward(weight, bias, scale, output if ctx.needs_input_grad[3] else None)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, scale, output = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])  # [T, out]
        precision = torch.promote_types(gradient.dtype, torch.float32)
        to_x = to_bias = to_scale = None
        if ctx.needs_input_grad[0]:
            to_x = gradient @ scaled_weight(weight, scale, gradient.dtype)
        if ctx.needs_input_grad[2]:
            to_bias = (scale * rows.sum(0, dtype=precision)).to(bias.dtype)
        if ctx.needs_input_grad[3]:
            to_scale = ((rows * output.view_as(rows)).sum(0, dtype=precision) / scale).to(scale.dtype)
        return to_x, None, to_bias, to_scale


def scaled_weight(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`diag(scale) weight` in the precision it is multiplied in: made twice a step, since keeping it would cost memory."""
    return (scale[:, None] * weight).to(dtype)
