"""Train the starter model's transformer from nothing with the project's own trainer, and put the finished folder together."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from torch import nn

from difffit_core.adapter_file import read_adapter
from difffit_core.base_models import load_catalog
from difffit_core.dataset import index_class_folders
from difffit_core.dit import class_embedder, load_transformer, tie_conditioning, untie_conditioning
from difffit_core.merging import merge
from difffit_core.methods.full.config import FullConfig
from difffit_core.spec import ResolvedHyperparameters, TrainingSpec
from difffit_core.tasks.config import ClassConditionalConfig

MODEL_ID = "emoji-dit"


def random_transformer(classes: int) -> DiTTransformer2DModel:
    """Width 256, 8 blocks, 4 heads, patch 1 on 8 x 8 x 8 latents, initialised as DiT is (Peebles & Xie 2023, adaLN-Zero)."""
    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=8,
        out_channels=8,
        num_layers=8,
        sample_size=8,
        patch_size=1,
        num_embeds_ada_norm=classes,
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    emb = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(emb.state_dict())
    tie_conditioning(model)
    nn.init.normal_(class_embedder(model).embedding_table.weight, std=0.02)
    for layer in (emb.timestep_embedder.linear_1, emb.timestep_embedder.linear_2):
        nn.init.normal_(layer.weight, std=0.02)
    for layer in (*(block.norm1.linear for block in model.transformer_blocks), model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)
    return model


def write_random_base(folder: Path, vae: Path, class_names: list[str], seed: int) -> None:
    """Write a whole diffusers folder whose transformer is untrained."""
    torch.manual_seed(seed)
    save_transformer(random_transformer(len(class_names)), folder)
    (folder / "vae").mkdir(exist_ok=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copy(vae / name, folder / "vae" / name)
    DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DiTPipeline",
        "_diffusers_version": "0.35.0",
        "id2label": {str(i): name for i, name in enumerate(class_names)},
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_transformer(model: DiTTransformer2DModel, folder: Path) -> None:
    """Save in fp16 with every tied tensor written out, as stock diffusers reads it."""
    untie_conditioning(model)
    model.half().save_pretrained(folder / "transformer")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").chmod(0o644)  # diffusers makes it private


def write_training_spec(spec_dir: Path, base: Path, pictures: Path, steps: int, seed: int) -> TrainingSpec:
    """Write the SPEC_DIR of the from-scratch run: full training of the random base on the class folders `pictures`."""
    spec_dir.mkdir(parents=True, exist_ok=True)
    if not (spec_dir / "dataset").exists():
        shutil.copytree(pictures, spec_dir / "dataset")
    spec = TrainingSpec(
        task=ClassConditionalConfig(),
        family="dit",
        base_model=MODEL_ID,
        base_model_path=str(base.resolve()),
        method=FullConfig(type="full"),
        hyperparameters=ResolvedHyperparameters(
            steps=steps,
            batch_size=64,
            micro_batch_size=64,
            gradient_checkpointing=False,
            base_precision="fp32",
            resolution=load_catalog()[MODEL_ID].image_size(),
            max_tokens=None,
            learning_rate=1e-3,
            lr_schedule="warmup-stable-decay",
            warmup_steps=200,
            weight_decay=0.01,
            ema_decay=0.999,
            label_dropout=0.1,
            max_grad_norm=1.0,
            horizontal_flip=False,  # letters, flags and clocks have a right way round
            sampler="uniform",
            validation_fraction=0.05,
            validate_every=1000,
            sample_every=1000,
            checkpoint_every=500,
            guidance_scale=3.0,
            sample_steps=30,
        ),
        dataset=index_class_folders(spec_dir / "dataset"),
        seed=seed,
        defaults=load_catalog()[MODEL_ID].defaults,
        compile=True,
    )
    (spec_dir / "spec.json").write_text(spec.model_dump_json(indent=2))
    return spec


def run_trainer(spec_dir: Path) -> None:
    """Run `python -m difffit_core.train`; it goes on from its newest checkpoint. Raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "difffit_core.train", str(spec_dir)], check=True)


def write_trained_base(folder: Path, untrained: Path, adapter: Path) -> None:
    """Copy the untrained folder and put the trained weights of `adapter` into its transformer."""
    shutil.copytree(untrained, folder, dirs_exist_ok=True)
    model, trained = load_transformer(untrained), read_adapter(adapter)
    merge(model, trained, base_names=trained.header.class_names)
    save_transformer(model, folder)
