"""Tiny random base models in the real on-disk format."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel

from difffit_core.base_models import BaseModelEntry, TrainingDefaults

BASE_CLASSES = ["circle", "square", "star"]


def write_tiny_base(
    folder: Path, *, class_names: Sequence[str] = BASE_CLASSES, learned_variance: bool = False, prediction: str = "v_prediction"
) -> BaseModelEntry:
    """A DiT pipeline of a few thousand random weights: 16 x 16 pictures, 4 x 8 x 8 latents, 4 blocks of width 16."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8 if learned_variance else 4,
        num_layers=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=len(class_names),
    )
    for block in transformer.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(transformer.transformer_blocks[0].norm1.emb.state_dict())
    transformer.save_pretrained(folder / "transformer")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).save_pretrained(folder / "vae")
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
