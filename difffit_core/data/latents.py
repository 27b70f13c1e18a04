"""Pictures as latents: the autoencoder's posterior of every picture and of its mirror image, computed once."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from difffit_core.data.buckets import Size
from difffit_core.data.dataset import load_picture

# Of the pictures that are in an autoencoder together, whatever their size: in Stable Diffusion's a tensor of so many in fp32
# has 2 GiB, with 256 channels, and a few of them are there at once.
PIXELS_AT_ONCE = 2**21
MOST_AT_ONCE = 32  # small ones


def at_once(width: int, height: int) -> int:
    """How many pictures of this size an autoencoder takes together."""
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (width * height)))


@torch.no_grad()
def encode_pictures(
    files: list[Path], vae: AutoencoderKL, size: Size, progress: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """`mean` and `std` `[N, 2, C, H, W]` (upright, mirrored), on the CPU, of pictures brought to `size`."""
    means, stds = [], []
    count = max(1, at_once(*size) // 2)  # each picture with its mirror image
    for start in range(0, len(files), count):
        pictures = torch.stack([load_picture(file, size) for file in files[start : start + count]])
        both = torch.stack([pictures, pictures.flip(-1)], dim=1).flatten(0, 1).to(vae.device)  # [2 B, 3, H, W]
        posterior = vae.encode(both).latent_dist
        means.append(posterior.mean.unflatten(0, (-1, 2)).cpu())
        stds.append(posterior.std.unflatten(0, (-1, 2)).cpu())
        progress(min(start + count, len(files)), len(files))
    return {"mean": torch.cat(means), "std": torch.cat(stds)}


def draw_latents(posteriors: dict[str, Tensor], indices: Tensor, mirrored: Tensor, noise: Tensor, scaling: float) -> Tensor:
    """Latents `[B, C, H, W]` of the pictures at `indices` `[B]`, mirrored where `mirrored` `[B]` is 1, with noise like them."""
    mean, std = posteriors["mean"][indices, mirrored], posteriors["std"][indices, mirrored]
    return (mean + std * noise) * scaling
