"""Encode a dataset once: the autoencoder's posterior of every image and of its mirror image, kept in one file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from difffit_core.dataset import Item, load_picture

ENCODE_BATCH = 32


@dataclass(frozen=True)
class LatentSet:
    """Posteriors of N images: mean and standard deviation `[N, 2, C, H, W]` (upright, mirrored), labels `[N]`."""

    mean: Tensor
    std: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, indices: Tensor, mirrored: Tensor, noise: Tensor, scaling: float) -> Tensor:
        """Draw latents `[B, C, H, W]` at `indices` `[B]`, mirrored where `mirrored` `[B]` is 1, with `noise` `[B, C, H, W]`."""
        mean, std = self.mean[indices, mirrored], self.std[indices, mirrored]
        return (mean + std * noise) * scaling

    def to(self, device: torch.device) -> "LatentSet":
        return LatentSet(self.mean.to(device), self.std.to(device), self.labels.to(device))


@torch.no_grad()
def encode(
    items: list[Item],
    folder: Path,
    class_names: list[str],
    vae: AutoencoderKL,
    size: int,
    cache: Path,
    progress: Callable[[int, int], None],
) -> LatentSet:
    """Encode `items` of `folder` at `size` pixels, or read `cache` where an earlier run of this job left it."""
    label_of = {name: index for index, name in enumerate(class_names)}
    labels = torch.tensor([label_of[item.label] for item in items], dtype=torch.long)
    if cache.exists():
        tensors = load_file(cache)
        return LatentSet(tensors["mean"], tensors["std"], labels)
    means, stds = [], []
    for start in range(0, len(items), ENCODE_BATCH):
        pictures = torch.stack([load_picture(folder / i.file, size) for i in items[start : start + ENCODE_BATCH]])
        both = torch.stack([pictures, pictures.flip(-1)], dim=1).flatten(0, 1).to(vae.device)  # [2 B, 3, S, S]
        posterior = vae.encode(both).latent_dist
        means.append(posterior.mean.unflatten(0, (-1, 2)).cpu())
        stds.append(posterior.std.unflatten(0, (-1, 2)).cpu())
        progress(min(start + ENCODE_BATCH, len(items)), len(items))
    tensors = {"mean": torch.cat(means).contiguous(), "std": torch.cat(stds).contiguous()}
    part = cache.with_suffix(".part")
    save_file(tensors, part)
    part.replace(cache)
    return LatentSet(tensors["mean"], tensors["std"], labels)
