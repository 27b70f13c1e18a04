"""`γ * (W x + b)` with a frozen W as one autograd function, which keeps nothing but its own output."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from difffit_core.runtime.quantization import PackedWeight, unpack

# A γ closer to zero is taken as this, so that the output can be divided by it: γ's gradient is right at γ = 0 too, and
# the output is off by 5e-20 of W x + b, far below what fp32 and bf16 resolve (fp16 would not; nothing trains in it here).
SMALLEST = 2.0**-64


def scaled_linear(x: Tensor, weight: Tensor | PackedWeight, bias: Tensor | None, scale: Tensor | None) -> Tensor:
    """`scale * (weight x + bias)` of x `[..., in]`, weight `[out, in]`, bias and scale `[out]`; returns `[..., out]`.

    Under autocast it multiplies in autocast's precision. A frozen weight (the usual case) gets no gradient: scale is
    multiplied into the weight instead of the output, and scale's gradient is taken from the output, `Σ g·z/γ`, which
    the next operation keeps anyway; x and W x + b are not kept. A weight that is trained takes the plain formula.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    if isinstance(weight, PackedWeight):
        packed: Tensor = _ScaledLinear.apply(x, weight.payload, weight.steps, weight.shape, bias, scale)
        return packed
    if weight.requires_grad:
        output = F.linear(x, weight, bias)
        return output if scale is None else output * scale.to(output.dtype)
    dense: Tensor = _ScaledLinear.apply(x, weight, None, weight.shape, bias, scale)
    return dense


class _ScaledLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        payload: Tensor,
        steps: Tensor | None,
        shape: torch.Size,
        bias: Tensor | None,
        scale: Tensor | None,
    ) -> Tensor:
        if scale is not None:
            scale = torch.where(scale.abs() < SMALLEST, SMALLEST, scale)
        shift = bias if bias is None or scale is None else scale * bias
        weight = scaled_weight(payload, steps, shape, scale, x.dtype)
        output = F.linear(x, weight, None if shift is None else shift.to(x.dtype))  # [..., out]
        ctx.shape = shape
        ctx.save_for_backward(payload, steps, bias, scale, output if ctx.needs_input_grad[5] else None)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        payload, steps, bias, scale, output = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])  # [T, out]
        to_x = to_bias = to_scale = None
        if ctx.needs_input_grad[0]:
            to_x = gradient @ scaled_weight(payload, steps, ctx.shape, scale, gradient.dtype)
        if ctx.needs_input_grad[4]:
            total = rows.sum(0)  # adds in fp32 whatever the dtype, and faster than to an fp32 result
            to_bias = (total if scale is None else scale * total).to(bias.dtype)
        if ctx.needs_input_grad[5]:
            to_scale = ((rows * output.view_as(rows)).sum(0) / scale).to(scale.dtype)
        return to_x, None, None, None, to_bias, to_scale


def scaled_weight(payload: Tensor, steps: Tensor | None, shape: torch.Size, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`diag(scale) weight` in the precision it is multiplied in: made twice a step, since keeping it would cost memory."""
    weight = unpack(payload, steps, shape)
    return (weight if scale is None else scale[:, None] * weight).to(dtype)
