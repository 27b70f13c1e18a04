"""Full fine-tuning: every weight of the transformer is trained; also how a base model is trained from nothing."""

from torch import nn


def prepare_full(model: nn.Module) -> None:
    """Train everything but fixed tables such as the sine-cosine positions, which are buffers."""
    model.requires_grad_(True)
