"""A Linear whose whole output is multiplied by per-channel scale factors (DiffFit, Algorithm 1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaledLinear(nn.Linear):
    """`γ * (W x + b)`: γ `[out]` multiplies the output, its bias included, so that it merges exactly.

    Takes over the weight and bias of a Linear. Several scale factors on one Linear act as their product: in a DiT
    block the output projection carries γ_proj and the attention branch's γ_1.
    """

    def __init__(self, linear: nn.Linear, scale_names: Sequence[str]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.scale_names = tuple(scale_names)
        for name in self.scale_names:
            ones = torch.ones(self.out_features, device=linear.weight.device, dtype=linear.weight.dtype)
            self.register_parameter(name, nn.Parameter(ones))

    def scale(self) -> Tensor:
        """The product of the scale factors, `[out]`."""
        product: Tensor = getattr(self, self.scale_names[0])
        for name in self.scale_names[1:]:
            product = product * getattr(self, name)
        return product

    def forward(self, x: Tensor) -> Tensor:
        output = F.linear(x, self.weight, self.bias)  # [..., out]
        return output * self.scale().to(output.dtype)
