"""Put a method into a model: it chooses what is trained and may add parameters of its own."""

from diffusers import DiTTransformer2DModel
from torch import nn

from difffit_core.methods.config import MethodConfig
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.difffit.model import prepare_difffit
from difffit_core.methods.full.config import FullConfig
from difffit_core.methods.full.model import prepare_full


def prepare(model: DiTTransformer2DModel, config: MethodConfig) -> None:
    """Put the method's parameters into `model`; afterwards exactly what it trains has `requires_grad`."""
    match config:
        case DiffFitConfig():
            prepare_difffit(model, config)
        case FullConfig():
            prepare_full(model)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by name; a tied parameter stands once, under its first name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, total) numbers of parameters; tied ones are counted once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
