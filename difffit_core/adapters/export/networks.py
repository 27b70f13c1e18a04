"""Keeping the network that an adapter is put into one that a stock config describes."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from difffit_core.errors import AdapterError

PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")  # of a Llama


def allow_biases(model: nn.Module) -> None:
    """Where attentions of a Llama have been given biases, make it a Llama with biases.

    Its config speaks of all projections of all attentions together: those without a bias get zeros.
    """
    if not isinstance(model, PreTrainedModel) or not hasattr(model.config, "attention_bias"):
        return
    linears = [m for path, m in model.named_modules() if path.endswith(PROJECTIONS) and isinstance(m, nn.Linear)]
    if model.config.attention_bias or all(linear.bias is None for linear in linears):
        return
    for linear in linears:
        if linear.bias is None:
            weight = linear.weight
            linear.bias = nn.Parameter(torch.zeros(linear.out_features, dtype=weight.dtype, device=weight.device), False)
    model.config.attention_bias = True


def take_new_biases(model: Any) -> dict[str, Tensor]:
    """Take the biases away which a model of the same stock config does not have; returns them, `[C]`, by their layer's path."""
    taken = {}
    for name in _foreign(model):
        path, _, kind = name.rpartition(".")
        if kind == "bias" and isinstance(layer := model.get_submodule(path), nn.Linear | nn.Conv2d) and layer.bias is not None:
            taken[path] = layer.bias.detach()
            layer.bias = None
    return taken


def check_stock(model: Any) -> None:
    """Raise AdapterError (`not_exportable`) that names a parameter which a model of the same stock config does not have."""
    if foreign := _foreign(model):
        raise AdapterError(
            f"The adapter gives the model {foreign[0]}, which no config of a {type(model).__name__} can ask for, so that stock "
            "libraries would drop it. Download the adapter as format=difffit.",
            code="not_exportable",
            param=foreign[0],
        )


def _foreign(model: Any) -> list[str]:
    """The parameters and buffers that a model of the same stock config does not have."""
    with torch.device("meta"):
        stock = type(model)(model.config) if isinstance(model, PreTrainedModel) else type(model).from_config(model.config)
    return sorted(model.state_dict().keys() - stock.state_dict().keys())
