"""Pictures as latents: the autoencoder's posterior of every picture and of its mirror image, computed once."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from difffit_core.buckets import Size
from difffit_core.dataset import load_picture

ENCODE_BATCH = 32


@torch.no_grad()
def encode_pictures(
    files: list[Path], vae: AutoencoderKL, size: Size, progress: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """`mean` and `std` `[N, 2, C, H, W]` (upright, mirrored), on the CPU, of pictures brought to `size`."""
    means, stds = [], []
    for start in range(0, len(files), ENCODE_BATCH):
        pictures = torch.stack([load_picture(file, size) for file in files[start : start + ENCODE_BATCH]])
        both = torch.stack([pictures, pictures.flip(-1)], dim=1).flatten(0, 1).to(vae.device)  # [2 B, 3, H, W]
        posterior = vae.encode(both).latent_dist
        means.append(posterior.mean.unflatten(0, (-1, 2)).cpu())
        stds.append(posterior.std.unflatten(0, (-1, 2)).cpu())
        progress(min(start + ENCODE_BATCH, len(files)), len(files))
    return {"mean": torch.cat(means), "std": torch.cat(stds)}


def draw_latents(posteriors: dict[str, Tensor], indices: Tensor, mirrored: Tensor, noise: Tensor, scaling: float) -> Tensor:
    """Latents `[B, C, H, W]` of the pictures at `indices` `[B]`, mirrored where `mirrored` `[B]` is 1, with noise like them."""
    mean, std = posteriors["mean"][indices, mirrored], posteriors["std"][indices, mirrored]
    return (mean + std * noise) * scaling
