"""BitFit (Ben Zaken et al., arXiv 2106.10199): train the biases that a model has."""

from torch import nn

from difffit_core.methods.marks import Marks, biases, class_table


def prepare_bitfit(model: nn.Module) -> Marks:
    """Mark every bias of Linears, convolutions and norms, and the class table."""
    return biases(model) | class_table(model)
