"""LoRA in any model with attentions (Hu et al., arXiv 2106.09685), through PEFT's own layers."""

from torch import nn

from difffit_core.errors import SpecError
from difffit_core.families.registry import family_of
from difffit_core.methods.lora.config import LoRAConfig
from difffit_core.methods.lora.layer import readers_of_one_input, share_down_matrices
from difffit_core.methods.structure import attentions, find
from difffit_core.methods.trained_parameters import TrainedParameters, never_trained


def prepare_lora(model: nn.Module, config: LoRAConfig) -> TrainedParameters:
    """Let PEFT put its matrices beside the chosen Linears, and mark them. Raises SpecError for a layer that does not exist."""
    from peft import LoraConfig, inject_adapter_in_model  # here, because it takes a second to import and most jobs need no LoRA

    dit = family_of(model) == "dit"
    fused = dit if config.fused == "auto" else config.fused
    targets = target_layers(model, config, ("qkv" if dit else "attention") if config.layers == "auto" else config.layers)
    marks, groups = never_trained(model), readers_of_one_input(model, targets) if fused else []
    alpha = config.rank if config.alpha == "auto" else config.alpha
    inject_adapter_in_model(LoraConfig(r=config.rank, lora_alpha=alpha, target_modules=targets), model)  # type: ignore[arg-type]
    share_down_matrices(model, groups)
    added = [p for path in targets for name, p in model.get_submodule(path).named_parameters() if name.startswith("lora_")]
    return marks | dict.fromkeys(added, "added")


def target_layers(model: nn.Module, config: LoRAConfig, layers: str | list[str]) -> list[str]:
    """The whole paths of the Linears that `layers` names."""
    if isinstance(layers, list):
        return [path for name in layers for path in find(model, name, "method.layers", among=(nn.Linear,))]
    found = [path for linears in attentions(model) for path in (linears[:-1] if layers == "qkv" else linears)]
    if not found:
        raise SpecError(
            f"{type(model).__name__} has no attention to put LoRA into; name its Linears in `layers`.",
            code="method_does_not_fit",
            param="method.layers",
        )
    return found
