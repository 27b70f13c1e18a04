"""Base models for benchmarks as folders of configs: published architectures, and small ones, whose weights are random."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDPMScheduler
from transformers import CLIPTokenizer, LlamaTokenizer

from difffit_core.planning.counting import ARCHITECTURES
from difffit_core.spec.catalog import BaseModelEntry, Family, get_base_model, load_catalog

Config = dict[str, Any]

T5_XXL: Config = {"model_type": "t5", "d_model": 4096}  # all that is read of it: a caption is embedded before training
# Llama 3.2 1B (its published config.json); the package's architecture is the 7B of the paper.
LLAMA_1B: Config = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
SMALL_DIT: Config = {"attention_head_dim": 16, "num_attention_heads": 4, "num_layers": 4, "sample_size": 8}
SMALL_UNET: Config = {
    "block_out_channels": [32, 64],
    "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
}
SMALL_UP: Config = {"sample_size": 8, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
SMALL_TEXT: Config = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
SMALL_LLAMA: Config = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


@dataclass(frozen=True)
class Base:
    """The configs of a base's networks, by folder; its autoencoder makes one latent of so many pixels, in each direction."""

    family: Family
    networks: dict[str, Config]
    pixels_per_latent: int = 8


def architecture(name: str, differences: Config | None = None) -> Config:
    """A packaged architecture, with what differs from it."""
    config: Config = json.loads((ARCHITECTURES / f"{name}.json").read_text())
    return config | (differences or {})


UNET, TEXT = architecture("sd-1.5-unet"), architecture("sd-1.5-text-encoder")
CONTROLNET, PIXART = architecture("sd-1.5-controlnet"), architecture("pixart-xl-2-512")
SMALL_CONTROLNET = CONTROLNET | SMALL_UNET | {"conditioning_embedding_out_channels": [16, 32]}
SMALL_PIXART = PIXART | SMALL_DIT | {"caption_channels": 32, "cross_attention_dim": 64}
SMALL_STABLE_DIFFUSION = {"unet": UNET | SMALL_UNET | SMALL_UP, "text_encoder": TEXT | SMALL_TEXT}
BASES = {
    "dit-xl-2-256": Base("dit", {"transformer": architecture("dit-xl-2-256")}),
    "dit-xl-2-512": Base("dit", {"transformer": architecture("dit-xl-2-512")}),
    "dit-xl-2-blocks-4": Base("dit", {"transformer": architecture("dit-xl-2-256", {"num_layers": 4})}),
    "sd-1.5": Base("stable-diffusion", {"unet": UNET, "text_encoder": TEXT}),
    "sd-1.5-controlnet": Base("controlnet", {"unet": UNET, "text_encoder": TEXT, "controlnet": CONTROLNET}),
    "pixart-xl-2-512": Base("pixart", {"transformer": PIXART, "text_encoder": T5_XXL}),
    "llama-1b": Base("llama", {".": architecture("llama-7b", LLAMA_1B)}),
    "dit-small": Base("dit", {"transformer": architecture("dit-xl-2-256", SMALL_DIT)}, 2),
    "sd-small": Base("stable-diffusion", SMALL_STABLE_DIFFUSION, 2),
    "controlnet-small": Base("controlnet", SMALL_STABLE_DIFFUSION | {"controlnet": SMALL_CONTROLNET}, 2),
    "pixart-small": Base("pixart", {"transformer": SMALL_PIXART, "text_encoder": T5_XXL | {"d_model": 32}}, 2),
    "llama-small": Base("llama", {".": architecture("llama-7b", SMALL_LLAMA)}),
}


def base_in(folder: Path, name: str) -> BaseModelEntry:
    """The base of that name, which has a folder of configs in `folder` from then on, or one of the catalog."""
    catalog = load_catalog()
    if name not in BASES:
        return get_base_model(catalog, name)
    path, base = folder / name, BASES[name]
    if not path.exists():
        _write(path, base)
    return BaseModelEntry.in_folder(name, path, catalog["emoji-dit"].defaults, base.family)


def _write(folder: Path, base: Base) -> None:
    for part, config in base.networks.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    if base.family == "llama":
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
        LlamaTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
        return
    levels = base.pixels_per_latent.bit_length()
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    AutoencoderKL(block_out_channels=(32,) * levels, latent_channels=4, **kinds).save_config(folder / "vae")
    DDPMScheduler().save_config(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")
    if base.family in ("stable-diffusion", "controlnet"):
        size = base.networks["text_encoder"]["vocab_size"]  # a DreamBooth's word comes behind the last
        tokens = ["<|startoftext|>", "<|endoftext|>", *map(str, range(size - 2))]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder / "tokenizer")
