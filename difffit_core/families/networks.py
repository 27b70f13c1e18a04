"""The networks of a base: loading them, and calling those that are told prompts, each in its own way."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import ControlNetModel, PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from difffit_core.errors import ModelError
from difffit_core.families.dit.network import load_transformer
from difffit_core.families.registry import COPIED_CONTROLNET, NEW_IN_A_COPY
from difffit_core.runtime.fake_weights import load_pretrained
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.tasks.config import TaskName

Tensors = dict[str, Tensor]

PIXART_PIXELS_PER_LATENT = 8  # of the autoencoders of all PixArt models; the larger ones are told the picture's size
INITIAL_SEED = 0  # of what is new in a ControlNet: it starts from the same numbers in every job
COPY_CHANNELS = (16, 32, 96, 256)  # of the published ControlNets' condition embedding, which halves a picture between them


def load_network(base: BaseModelEntry, task: TaskName) -> Any:
    """The network that adapters for `task` belong to, on the CPU, frozen; a language model as it is stored, others in fp32.

    Raises ModelError where it cannot be read.
    """
    match base.family:
        case "dit":
            return load_transformer(base.path).requires_grad_(False).eval()
        case "stable-diffusion":
            unet = load_part(UNet2DConditionModel, base.path, "unet")
            return controlnet_of(unet, base) if task == "controlnet" else unet
        case "controlnet":
            return load_part(ControlNetModel, base.path, "controlnet")
        case "pixart":
            return load_part(PixArtTransformer2DModel, base.path, "transformer")
        case "llama":
            return load_language_model(base.path, "auto")


def load_part(kind: Any, base: Path, name: str) -> Any:
    """The model in the folder `name` of a base, in fp32, frozen; raises ModelError where it cannot be read."""
    try:
        model = load_pretrained(kind, base / name).float()
    except (OSError, ValueError) as error:
        raise ModelError(f"The {name} of {base.name} cannot be loaded: {error}") from error
    return model.requires_grad_(False).eval()


def load_language_model(base: Path, dtype: torch.dtype | str) -> Any:
    """A Llama, frozen; raises ModelError where it cannot be read."""
    try:
        model = load_pretrained(AutoModelForCausalLM, base, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ModelError(f"The language model of {base.name} cannot be loaded: {error}") from error
    return model.requires_grad_(False).eval()


def load_tokenizer(base: Path) -> Any:
    """A language model's; raises ModelError where it cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise ModelError(f"The tokenizer of {base.name} cannot be loaded: {error}") from error


def controlnet_of(unet: UNet2DConditionModel, base: BaseModelEntry) -> ControlNetModel:
    """A ControlNet that starts as a copy of the first half of `unet` (Zhang et al. 2023, arXiv 2302.05543).

    Its condition embedding and zero convolutions are new: every method trains them whole, so that an adapter holds them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(INITIAL_SEED)
        copy = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=copy_channels(base))
    setattr(copy, COPIED_CONTROLNET, NEW_IN_A_COPY)
    return copy.requires_grad_(False).eval()


def copy_channels(base: BaseModelEntry) -> tuple[int, ...]:
    """The widths of a copy's condition embedding, which shrinks a picture to the size of the base's latents."""
    halvings = base.pixels_per_latent().bit_length() - 1
    return (*COPY_CHANNELS, *[COPY_CHANNELS[-1]] * halvings)[: halvings + 1]


def told(embedded: Tensors, rows: Tensor) -> Tensors:
    """The prompts at `rows` `[B]` of what a text encoder has made of several."""
    return {name: tensor[rows] for name, tensor in embedded.items()}


def predict(
    model: Any, latents: Tensor, timesteps: Tensor, prompts: Tensors, residuals: Mapping[str, Any] = MappingProxyType({})
) -> Tensor:
    """The output `[B, C or 2 C, H, W]` of a UNet or a PixArt for latents, timesteps `[B]` and embedded prompts.

    `residuals` are what `steering` gives, which a UNet takes.
    """
    if isinstance(model, PixArtTransformer2DModel):
        sizes = _sizes(latents) if model.use_additional_conditions else {"resolution": None, "aspect_ratio": None}
        output = model(
            latents,
            encoder_hidden_states=prompts["text"],
            encoder_attention_mask=prompts["text_mask"],
            timestep=timesteps,
            added_cond_kwargs=sizes,
        )
    else:
        output = model(latents, timesteps, encoder_hidden_states=prompts["text"], **residuals)
    sample: Tensor = output.sample
    return sample


def _sizes(latents: Tensor) -> Tensors:
    """What the larger PixArt models are told of a picture: height and width `[B, 2]`, and their ratio `[B, 1]`."""
    height, width = (side * PIXART_PIXELS_PER_LATENT for side in latents.shape[-2:])
    sizes = {"resolution": [float(height), float(width)], "aspect_ratio": [height / width]}
    return {name: torch.tensor([value], device=latents.device).expand(len(latents), -1) for name, value in sizes.items()}


def steering(controlnet: Any, latents: Tensor, timesteps: Tensor, prompts: Tensors, condition: Tensor) -> dict[str, Any]:
    """What a ControlNet adds to its UNet for conditions `[B, 3, H, W]` in [0, 1], as arguments of the UNet."""
    down, middle = controlnet(
        latents, timesteps, encoder_hidden_states=prompts["text"], controlnet_cond=condition, return_dict=False
    )
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
