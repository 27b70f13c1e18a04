"""Tiny random base models of every family: in memory, and as folders in the real on-disk format."""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    DiTTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from difffit_core.spec.catalog import BaseModelEntry, TrainingDefaults

BASE_CLASSES = ["circle", "square", "star"]
PROMPT_TOKENS = 16  # how long a prompt of the tiny text encoder is, padding included
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation


def write_tiny_base(
    folder: Path, *, class_names: Sequence[str] = BASE_CLASSES, learned_variance: bool = False, prediction: str = "v_prediction"
) -> BaseModelEntry:
    """A DiT pipeline of a few thousand random weights: 16 x 16 pictures, 4 x 8 x 8 latents, 4 blocks of width 16."""
    transformer = tiny_dit(classes=len(class_names), learned_variance=learned_variance)
    transformer.save_pretrained(folder / "transformer")
    tiny_autoencoder().save_pretrained(folder / "vae")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction).save_pretrained(folder / "scheduler")
    labels = {str(i): name for i, name in enumerate(class_names)}
    parts = {"transformer": "DiTTransformer2DModel", "vae": "AutoencoderKL", "scheduler": "DDPMScheduler"}
    index = {"_class_name": "DiTPipeline", "id2label": labels} | {k: ["diffusers", v] for k, v in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    defaults = TrainingDefaults(
        pretraining_learning_rate=1e-3,
        steps=4,
        batch_size=4,
        guidance_scale=3.0,
        sample_steps=2,
        scheduler="dpmsolver++",
    )
    return BaseModelEntry.in_folder("tiny", folder, defaults)


def write_tiny_stable_diffusion(folder: Path, *, prediction: str = "epsilon") -> Path:
    """A folder that `StableDiffusionPipeline.from_pretrained` loads: 16 x 16 pictures, 4 x 8 x 8 latents, short prompts."""
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    StableDiffusionPipeline(
        vae=tiny_autoencoder(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_clip_tokenizer(),
        unet=tiny_unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_tiny_controlnet(folder: Path) -> Path:
    """A folder that `ControlNetModel.from_pretrained` loads; it steers the UNet of `write_tiny_stable_diffusion`."""
    tiny_controlnet().save_pretrained(folder)
    return folder


def write_tiny_pixart(folder: Path) -> Path:
    """A folder that `PixArtAlphaPipeline.from_pretrained` loads: 16 x 16 pictures, 4 x 8 x 8 latents, learned variance."""
    scheduler = DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    PixArtAlphaPipeline(
        vae=tiny_autoencoder(),
        text_encoder=tiny_t5(),
        tokenizer=tiny_t5_tokenizer(),
        transformer=tiny_pixart(),
        scheduler=scheduler,
    ).save_pretrained(folder)
    return folder


def write_tiny_llama(folder: Path, *, layers: int = 4, tied: bool = False) -> Path:
    """A folder that `AutoModelForCausalLM` and `AutoTokenizer` load: characters as tokens, bytes for all others."""
    tiny_llama(layers=layers, tied=tied).save_pretrained(folder)
    tiny_llama_tokenizer().save_pretrained(folder)
    return folder


def write_tiny_blip(folder: Path) -> Path:
    """A folder that `BlipForConditionalGeneration` and `BlipProcessor` load: 16 x 16 pictures, captions of characters."""
    torch.manual_seed(0)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, bos_token="[DEC]")
    width: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    width |= {"initializer_range": 1.0}  # so that captions depend on the picture
    text = {"vocab_size": len(tokens), "encoder_hidden_size": 16, "max_position_embeddings": 64, "bos_token_id": 5}
    text |= {"pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    config = BlipConfig(text_config=text | width, vision_config={"image_size": 16, "patch_size": 8} | width, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)
    return folder


def tiny_dit(
    *, classes: int = len(BASE_CLASSES), learned_variance: bool = False, affine_norms: bool = False
) -> DiTTransformer2DModel:
    """4 blocks of width 16 on 4 x 8 x 8 latents; its copies of the conditioning are equal, as in a published DiT."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8 if learned_variance else 4,
        num_layers=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=classes,
        norm_elementwise_affine=affine_norms,
    )
    for block in transformer.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(transformer.transformer_blocks[0].norm1.emb.state_dict())
    return transformer


def tiny_autoencoder() -> AutoencoderKL:
    """16 x 16 pictures to 4 x 8 x 8 latents."""
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def tiny_unet() -> UNet2DConditionModel:
    """Stable Diffusion's UNet in small: 4 x 8 x 8 latents, two levels, cross attention to text of width 16."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def tiny_controlnet() -> ControlNetModel:
    """The ControlNet of `tiny_unet` before any training: a copy of its first half and zero convolutions; 16 x 16 conditions."""
    unet = tiny_unet()
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))


def tiny_text_encoder() -> CLIPTextModel:
    """CLIP's text encoder of width 16 for `tiny_clip_tokenizer`."""
    torch.manual_seed(0)
    tokenizer = tiny_clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=PROMPT_TOKENS,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tiny_clip_tokenizer() -> CLIPTokenizer:
    """Knows single characters, inside and at the end of a word; there are no merges."""
    tokens = [*CHARACTERS, *(f"{c}</w>" for c in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=PROMPT_TOKENS)


def tiny_pixart() -> PixArtTransformer2DModel:
    """PixArt's transformer in small: 4 blocks of width 16 with self and cross attention, adaLN-single, learned variance."""
    torch.manual_seed(0)
    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        cross_attention_dim=16,
        sample_size=8,
        patch_size=2,
        caption_channels=12,
    )


def tiny_t5() -> T5EncoderModel:
    """T5's encoder of width 12 for `tiny_t5_tokenizer`."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(tiny_t5_tokenizer()), d_model=12, d_kv=6, d_ff=24, num_layers=2, num_heads=2)
    return T5EncoderModel(config)


def tiny_t5_tokenizer() -> T5Tokenizer:
    """Knows single characters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((character, -2.0) for character in "▁" + CHARACTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def tiny_llama(*, layers: int = 4, tied: bool = False) -> LlamaForCausalLM:
    """A decoder of width 16 with grouped key-value heads and no bias anywhere, for `tiny_llama_tokenizer`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_llama_tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def tiny_llama_tokenizer() -> LlamaTokenizer:
    """Knows single characters, and a token for each byte where one is not among them."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *CHARACTERS]
    return LlamaTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], add_bos_token=True)
