"""Put a method into a model: it chooses what is trained and may add parameters of its own."""

import re
from collections import defaultdict
from dataclasses import dataclass

import torch
from diffusers import DiTTransformer2DModel
from torch import nn

from difffit_core.errors import SpecError
from difffit_core.families.dit.network import tie_conditioning
from difffit_core.families.registry import Family, family_of
from difffit_core.methods.adapter.config import ParallelAdapterConfig, SequentialAdapterConfig
from difffit_core.methods.adapter.model import prepare_adapter
from difffit_core.methods.bitfit.config import BitFitConfig
from difffit_core.methods.bitfit.model import prepare_bitfit
from difffit_core.methods.config import MethodConfig
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.difffit.model import prepare_difffit
from difffit_core.methods.full.config import FullConfig
from difffit_core.methods.full.model import prepare_full
from difffit_core.methods.lora.config import LoRAConfig
from difffit_core.methods.lora.model import prepare_lora
from difffit_core.methods.trained_parameters import Kind, TrainedParameters
from difffit_core.methods.vpt.config import VPTDeepConfig
from difffit_core.methods.vpt.model import prepare_vpt

INITIAL_SEED = 0  # of the parameters a method adds: the same method starts from the same numbers in every job


@dataclass(frozen=True)
class Preparation:
    """What a method trains in a model: the kind of each trained parameter by name; a tied one stands under its first name."""

    family: Family
    kinds: dict[str, Kind]

    def groups(self) -> list[tuple[tuple[Kind, str], list[str]]]:
        """The names by kind and pattern, which is the name with `*` for the numbers of blocks and layers: a list for people."""
        found: dict[tuple[Kind, str], list[str]] = defaultdict(list)
        for name, kind in self.kinds.items():
            found[kind, re.sub(r"(?<=\.)\d+(?=\.)", "*", name)].append(name)
        return list(found.items())


def prepare(model: nn.Module, config: MethodConfig) -> Preparation:
    """Put the method's parameters into `model`; afterwards exactly what it trains has `requires_grad`.

    Copies of a DiT's conditioning are tied first. Raises SpecError where the method does not fit the model, or would
    train nothing.
    """
    family = family_of(model)
    config.check_fits(family)
    if isinstance(model, DiTTransformer2DModel):
        tie_conditioning(model)
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(INITIAL_SEED)
        marks = _put(model, config)
    for parameter in marks:
        parameter.requires_grad_(True)
    kinds = {name: marks[parameter] for name, parameter in model.named_parameters() if parameter in marks}
    if not kinds:
        raise SpecError(
            f"The method {config.type} with these settings trains nothing in {type(model).__name__}.",
            code="nothing_to_train",
            param="method",
        )
    return Preparation(family, kinds)


def _put(model: nn.Module, config: MethodConfig) -> TrainedParameters:
    match config:
        case DiffFitConfig():
            return prepare_difffit(model, config)
        case BitFitConfig():
            return prepare_bitfit(model)
        case FullConfig():
            return prepare_full(model)
        case LoRAConfig():
            return prepare_lora(model, config)
        case ParallelAdapterConfig() | SequentialAdapterConfig():
            return prepare_adapter(model, config)
        case VPTDeepConfig():
            return prepare_vpt(model, config)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by name; a tied parameter stands once, under its first name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, total) numbers of parameters; tied ones are counted once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
