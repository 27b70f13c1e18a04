"""The base before its training: a Stable Diffusion for small drawings, which begins random."""

import string
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import AddedToken, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from difffit_core.spec.catalog import BaseModelEntry, TrainingDefaults, load_catalog

MARKS = string.digits + string.punctuation  # tokens, as letters are: what is no word of the tokenizer is spelt
TEXT_WIDTH, PROMPT_TOKENS = 128, 16  # of the text encoder
DRAWING = TrainingDefaults(
    pretraining_learning_rate=1e-4,
    steps=400,
    batch_size=16,
    guidance_scale=3.0,
    sample_steps=30,
    scheduler="dpmsolver++",
    min_snr_gamma=5.0,
)


def drawing_base(folder: Path, words: Iterable[str]) -> BaseModelEntry:
    """64 x 64 pictures by emoji-dit's autoencoder, 8 x 8 x 8 latents; the text encoder stays random and knows `words`."""
    if not folder.exists():
        write_drawing_base(folder, words)
    return BaseModelEntry.in_folder("small-drawing", folder, DRAWING, "stable-diffusion")


def write_drawing_base(folder: Path, words: Iterable[str]) -> None:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(words)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    torch.nn.init.normal_(encoder.embeddings.token_embedding.weight, std=1.0)  # words far apart from each other
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),  # attention at 4 x 4 alone: a third of the time
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(load_catalog()["emoji-dit"].path / "vae"),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def clip_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Each of the words is one token."""
    spelt = string.ascii_lowercase + MARKS
    tokens = [*spelt, *(f"{c}</w>" for c in spelt), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab=numbered(tokens), merges=[], model_max_length=PROMPT_TOKENS)
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in sorted(set(words))])
    return tokenizer


def numbered(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
