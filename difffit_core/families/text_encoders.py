"""Prompts as tensors: the frozen text encoder of a base, CLIP's or T5's, told apart by its folder."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from difffit_core.errors import ModelError
from difffit_core.families.networks import load_part

EMBED_BATCH = 32
END_TOKENS = 2  # around a prompt; T5 has one before its first word, and one behind the last
T5_TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # of a prompt, padding included (diffusers' defaults)


class TextEncoder(ABC):
    """A tokenizer and its encoder. A longer prompt than the encoder reads is cut off, as stock pipelines do."""

    tokenizer_class: ClassVar[Any]
    encoder_class: ClassVar[Any]

    def __init__(self, base: Path, device: torch.device) -> None:
        """Raises ModelError where either cannot be read."""
        self.base = base
        self.tokenizer = self.load_tokenizer(base)
        self.encoder = load_part(self.encoder_class, base, "text_encoder")
        self.to(device)

    def to(self, device: torch.device) -> None:
        """Compute there from now on."""
        self.device = device
        self.encoder.to(device)

    @classmethod
    def load_tokenizer(cls, base: Path) -> Any:
        try:
            return cls.tokenizer_class.from_pretrained(base / "tokenizer")
        except (OSError, ValueError) as error:
            raise ModelError(f"The tokenizer of {base.name} cannot be loaded: {error}") from error

    @staticmethod
    def read_as(prompt: str) -> str:
        """The prompt as the tokenizer gets it."""
        return prompt

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """`text` `[U, L, D]` on the CPU, and where the network is told of padding, `text_mask` `[U, L]`."""
        batches = [self.embed_batch(prompts[at : at + EMBED_BATCH]) for at in range(0, len(prompts), EMBED_BATCH)]
        return {name: torch.cat([batch[name].cpu() for batch in batches]) for name in batches[0]}

    @abstractmethod
    def embed_batch(self, prompts: list[str]) -> dict[str, Tensor]:
        """The same for a few prompts, on the device."""


class ClipEncoder(TextEncoder):
    """Stable Diffusion's: the last hidden states; padding is text like any other."""

    tokenizer_class, encoder_class = CLIPTokenizer, CLIPTextModel

    def embed_batch(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return {"text": self.encoder(tokens.to(self.device)).last_hidden_state}


class T5Encoder(TextEncoder):
    """PixArt's: prompts in small letters, and a mask that leaves padding out."""

    tokenizer_class, encoder_class = T5Tokenizer, T5EncoderModel

    def __init__(self, base: Path, device: torch.device) -> None:
        super().__init__(base, device)
        self.tokens = most_tokens(base)

    @staticmethod
    def read_as(prompt: str) -> str:
        return prompt.lower().strip()

    def embed_batch(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            [self.read_as(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        states = self.encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return {"text": states, "text_mask": tokens.attention_mask}


ENCODERS: dict[str, type[TextEncoder]] = {"clip_text_model": ClipEncoder, "t5": T5Encoder}  # by the type in its config


def load_text_encoder(base: Path, device: torch.device) -> TextEncoder:
    """The text encoder of a diffusers folder; raises ModelError where it is of no known type or cannot be read."""
    return _kind(base)(base, device)


def _kind(base: Path) -> type[TextEncoder]:
    kind = _read(base / "text_encoder" / "config.json").get("model_type")
    if kind not in ENCODERS:
        raise ModelError(f"The text encoder of {base.name} is a {kind!r}; known are {', '.join(ENCODERS)}.", param="base_model")
    return ENCODERS[kind]


def cut_off(base: Path, prompts: Iterable[str]) -> list[str]:
    """Those of which the text encoder reads a beginning only; raises ModelError as `load_text_encoder` does."""
    most, kind = most_tokens(base), _kind(base)
    long = [prompt for prompt in prompts if len(prompt.encode()) > most - END_TOKENS]  # no token is less than a byte
    if not long:
        return []
    tokens = kind.load_tokenizer(base)([kind.read_as(prompt) for prompt in long], verbose=False).input_ids
    return [prompt for prompt, row in zip(long, tokens, strict=True) if len(row) > most]


def blank_embeddings(base: Path, prompts: int) -> dict[str, Tensor]:
    """What `embed` makes of so many prompts, without content and without the encoder; raises ModelError as it does."""
    config = _read(base / "text_encoder" / "config.json")
    tokens = most_tokens(base)
    if config.get("model_type") == "t5":
        mask = torch.ones(prompts, tokens, dtype=torch.long)
        return {"text": torch.zeros(prompts, tokens, int(config["d_model"])), "text_mask": mask}
    return {"text": torch.zeros(prompts, tokens, int(config["hidden_size"]))}


def most_tokens(base: Path) -> int:
    """How many tokens of a prompt are read, those at its ends included; raises ModelError as `load_text_encoder` does."""
    config = _read(base / "text_encoder" / "config.json")
    if config.get("model_type") == "t5":
        return T5_TOKENS.get(_read(base / "model_index.json").get("_class_name", ""), T5_TOKENS["PixArtAlphaPipeline"])
    return int(config["max_position_embeddings"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"The base model's file {path.name} cannot be read: {error}") from error
    return content
