"""The network of a base's folder that an adapter belongs to: where it lies, and how stock libraries load and describe it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from difffit_core.dit import load_transformer
from difffit_core.errors import AdapterError, ModelError
from difffit_core.families import Family

FOLDERS: Mapping[Family, str] = {"dit": "transformer", "unet": "unet", "controlnet": "controlnet", "llama": "."}
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def load_network(base: Path, family: Family) -> Any:
    """The network in the folder `base`; raises ModelError where it cannot be read, AdapterError for a family without folders."""
    if family not in FOLDERS:
        raise AdapterError(f"An adapter for a {family} model can only be downloaded as format=difffit.", code="not_exportable")
    if family == "dit":
        return load_transformer(base)
    kind = {"unet": UNet2DConditionModel, "controlnet": ControlNetModel, "llama": AutoModelForCausalLM}[family]
    try:
        return kind.from_pretrained(base / FOLDERS[family], use_safetensors=True).requires_grad_(False).eval()
    except (OSError, ValueError) as error:
        raise ModelError(f"The {family} model of {base.name} cannot be loaded: {error}") from error


def allow_biases(model: nn.Module) -> dict[str, bool]:
    """Where Linears of a Llama have been given biases, make it a Llama with biases; return what its config now says of them.

    A config speaks of all projections of the attentions, or of the MLPs, together: those without a bias get zeros.
    """
    settings: dict[str, bool] = {}
    if not isinstance(model, PreTrainedModel):
        return settings
    for setting, names in (("attention_bias", ATTENTION), ("mlp_bias", MLP)):
        linears = [m for path, m in model.named_modules() if path.endswith(names) and isinstance(m, nn.Linear)]
        if getattr(model.config, setting) or all(linear.bias is None for linear in linears):
            continue
        for linear in linears:
            if linear.bias is None:
                weight = linear.weight
                linear.bias = nn.Parameter(torch.zeros(linear.out_features, dtype=weight.dtype, device=weight.device), False)
        setattr(model.config, setting, True)
        settings[setting] = True
    return settings


def check_stock(model: Any) -> None:
    """Raise AdapterError (`not_exportable`) that names a parameter which a model of the same stock config does not have."""
    with torch.device("meta"):
        stock = type(model)(model.config) if isinstance(model, PreTrainedModel) else type(model).from_config(model.config)
    foreign = sorted(model.state_dict().keys() - stock.state_dict().keys())
    if foreign:
        raise AdapterError(
            f"The adapter gives the model {foreign[0]}, which no config of a {type(model).__name__} can ask for, so that stock "
            "libraries would drop it. Download the adapter as format=difffit.",
            code="not_exportable",
            param=foreign[0],
        )
