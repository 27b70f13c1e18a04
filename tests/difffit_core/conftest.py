"""Tiny random base models in the real on-disk format, and a small real dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from PIL import Image

from difffit_core.base_models import BaseModelEntry, TrainingDefaults
from difffit_core.dataset import index_class_folders
from difffit_core.spec import JobSpec, TrainingSpec, resolve

BASE_CLASSES = ["circle", "square", "star"]


def write_tiny_base(folder: Path, *, learned_variance: bool = False, prediction: str = "v_prediction") -> BaseModelEntry:
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
        num_embeds_ada_norm=len(BASE_CLASSES),
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
    labels = {str(i): name for i, name in enumerate(BASE_CLASSES)}
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


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelEntry:
    return write_tiny_base(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="session")
def tiny_learned_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelEntry:
    """Like the published DiT: predicts noise and a variance."""
    return write_tiny_base(tmp_path_factory.mktemp("tiny-learned"), learned_variance=True, prediction="epsilon")


def write_spec_dir(folder: Path, base: BaseModelEntry, method: str = "difffit", **hyperparameters: object) -> TrainingSpec:
    """A SPEC_DIR with 20 plain-coloured pictures of two classes, one of which the base knows by name."""
    random = np.random.default_rng(0)
    for name, colour in (("star", (250, 200, 30)), ("tree", (20, 120, 40))):
        (folder / "dataset" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(np.array(colour) + random.integers(-20, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "dataset" / name / f"{number}.png")
    summary = index_class_folders(folder / "dataset")
    body = {"base_model": "tiny", "dataset": "ds_tiny", "method": {"type": method}, "hyperparameters": hyperparameters}
    spec = resolve(JobSpec.model_validate(body), base, summary)
    (folder / "spec.json").write_text(spec.model_dump_json())
    return spec
