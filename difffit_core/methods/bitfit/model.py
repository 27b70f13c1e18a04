"""BitFit (Ben Zaken et al., arXiv 2106.10199): train the biases that a model has."""

from torch import nn

from difffit_core.methods.trained_parameters import TrainedParameters, biases, never_trained


def prepare_bitfit(model: nn.Module) -> TrainedParameters:
    """Mark every bias of Linears, convolutions and norms, and what the base does not know."""
    return biases(model) | never_trained(model)
