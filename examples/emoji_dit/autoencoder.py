"""Train the starter model's autoencoder: 64 x 64 x 3 pictures to 8 x 8 x 8 latents and back."""

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

BATCH = 24
LEARNING_RATE = 1e-3
KL_WEIGHT = 2e-3  # heavier than usual: smooth latents matter more to a small transformer than the last decibel
GRADIENT_WEIGHT = 0.5  # weight of the image-gradient term, which keeps outlines sharp
LOG_EVERY = 100


def build_autoencoder() -> AutoencoderKL:
    """An AutoencoderKL of 2.8M parameters: factor 8, 8 latent channels, no attention."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 96, 120),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def load_pictures(pictures: list[Image.Image]) -> Tensor:
    """Stack RGB pictures of one size as a uint8 tensor `[N, 3, H, W]`."""
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and shift `[B, 3, H, W]` uint8 pictures (white fills the border); return floats in [-1, 1]."""
    images = batch.float() / 127.5 - 1.0
    flips = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flips[:, None, None, None], images.flip(-1), images)
    height, width = images.shape[-2:]
    padded = F.pad(images, (8, 8, 8, 8), value=1.0)
    top, left = (int(v) for v in torch.randint(0, 17, (2,), generator=generator))
    return padded[:, :, top : top + height, left : left + width].contiguous()


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., :, 1:] - images[..., :, :-1]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + L2 + 0.5 x L1 of the image gradients, over `[B, 3, H, W]`."""
    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(output), gradients(target), strict=True))
    return F.l1_loss(output, target) + F.mse_loss(output, target) + GRADIENT_WEIGHT * edges


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKL, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of `[N, 3, H, W]` uint8 pictures through the autoencoder's mean."""
    errors = []
    for chunk in pictures.split(64):
        images = chunk.float() / 127.5 - 1.0
        output = model.decode(model.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append(((output - images) / 2).square().mean(dim=(1, 2, 3)))
    return float(-10 * torch.log10(torch.cat(errors)).mean())


@torch.no_grad()
def latent_scaling(model: AutoencoderKL, pictures: Tensor) -> float:
    """One over the standard deviation of the latents, diffusers' `scaling_factor`."""
    latents = torch.cat([model.encode(c.float() / 127.5 - 1.0).latent_dist.mode() for c in pictures.split(64)])
    return float(1.0 / latents.std())


def train_autoencoder(train: Tensor, held_out: Tensor, steps: int, folder: Path, seed: int = 0) -> dict[str, float]:
    """Train on `[N, 3, 64, 64]` uint8 pictures and save to `folder` in diffusers' layout.

    Returns the figures of the model card: steps, seconds and the reconstruction's PSNR on both sets.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, total_iters=200)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - 200)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[200])
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for step in range(1, steps + 1):
        images = augment(train[torch.randint(0, len(train), (BATCH,), generator=generator)], generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = model.encode(images.to(memory_format=torch.channels_last)).latent_dist
            output = model.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1.0 - posterior.logvar.float()).mean()
        reconstruction = reconstruction_loss(output.float(), images)
        optimizer.zero_grad(set_to_none=True)
        (reconstruction + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % LOG_EVERY == 0:
            line = {
                "step": step,
                "reconstruction": round(float(reconstruction.detach()), 4),
                "kl": round(float(kl.detach()), 3),
            }
            print(json.dumps(line | {"seconds": round(time.monotonic() - began)}), flush=True)
        if step % 1000 == 0 or step == steps:
            print(json.dumps({"step": step, "held_out_psnr": round(reconstruction_psnr(model, held_out), 2)}), flush=True)
    model.register_to_config(scaling_factor=latent_scaling(model, train))
    model.to(memory_format=torch.contiguous_format).half().save_pretrained(folder)
    model.float()
    figures = {"steps": float(steps), "seconds": time.monotonic() - began, "psnr_train": reconstruction_psnr(model, train)}
    return figures | {"psnr_held_out": reconstruction_psnr(model, held_out)}
