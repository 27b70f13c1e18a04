"""Full fine-tuning: every weight of the model is trained; also how a base model is trained from nothing."""

from torch import nn

from difffit_core.methods.trained_parameters import TrainedParameters, class_table, whole


def prepare_full(model: nn.Module) -> TrainedParameters:
    """Mark everything but fixed tables such as the sine-cosine positions, which diffusers keeps as buffers."""
    return whole(model, "weight") | class_table(model)
