"""A Linear or a convolution whose whole output is multiplied by per-channel scale factors (DiffFit, Algorithm 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from difffit_core.methods.difffit.kernel import scaled_linear


class Scaled(nn.Module):
    """The scale factors of a layer, each `[out]` and 1 at first. Several on one layer act as their product.

    In a DiT block the output projection carries γ_proj and the attention branch's γ_1.
    """

    scale_names: tuple[str, ...]

    def add_scales(self, names: Sequence[str], weight: Tensor) -> None:
        """Register a factor of each name, on the device and in the dtype of the layer's weight `[out, ...]`."""
        self.scale_names = tuple(names)
        for name in self.scale_names:
            ones = torch.ones(len(weight), device=weight.device, dtype=weight.dtype)
            self.register_parameter(name, nn.Parameter(ones))

    def scale(self) -> Tensor:
        """The product of the scale factors, `[out]`."""
        product: Tensor = getattr(self, self.scale_names[0])
        for name in self.scale_names[1:]:
            product = product * getattr(self, name)
        return product


class ScaledLinear(Scaled, nn.Linear):
    """`γ * (W x + b)`: γ multiplies the output, its bias included, so that it merges exactly.

    Takes over the weight and bias of a Linear.
    """

    def __init__(self, linear: nn.Linear, scale_names: Sequence[str]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.add_scales(scale_names, linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return scaled_linear(x, self.weight, self.bias, self.scale())


class ScaledConv2d(Scaled, nn.Conv2d):
    """`γ * (W ⋆ x + b)`, channel by channel. Takes over the weight and bias of a convolution."""

    def __init__(self, conv: nn.Conv2d, scale_names: Sequence[str]) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",  # the numbers are the other convolution's
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.add_scales(scale_names, conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)  # [B, out, H, W]
        return output * self.scale().to(output.dtype)[:, None, None]


def with_scales(layer: nn.Linear | nn.Conv2d, names: Sequence[str]) -> ScaledLinear | ScaledConv2d:
    """The scaled layer that takes over from a plain one."""
    return ScaledLinear(layer, names) if isinstance(layer, nn.Linear) else ScaledConv2d(layer, names)
