"""A Linear whose whole output is multiplied by per-channel scale factors (DiffFit, Algorithm 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from difffit_core.methods.difffit.kernel import scaled_linear


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
        return scaled_linear(x, self.weight, self.bias, self.scale())

    def merged(self) -> nn.Linear:
        """The plain Linear that does the same: `W' = diag(γ) W`, `b' = γ * b`."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        scale = self.scale().detach()
        linear.weight = nn.Parameter(scale[:, None] * self.weight.detach(), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(scale * self.bias.detach(), requires_grad=False)
        return linear


def merge_scaled_linears(model: nn.Module) -> None:
    """Replace every ScaledLinear below `model` by the plain Linear that does the same."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ScaledLinear):
                setattr(parent, name, child.merged())
