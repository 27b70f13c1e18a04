"""Full fine-tuning: every weight of the model is trained; also how a base model is trained from nothing."""

from torch import nn

from difffit_core.methods.marks import Marks, class_table, whole


def prepare_full(model: nn.Module) -> Marks:
    """Mark everything but fixed tables such as the sine-cosine positions, which diffusers keeps as buffers."""
    return whole(model, "weight") | class_table(model)
