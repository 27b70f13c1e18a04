"""Train the starter model's autoencoder: 64 x 64 x 3 pictures to 16 x 16 x 4 latents and back."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from difffit_core.evaluation.extractors import load_network
from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.evaluation.weights import find_weights
from difffit_core.runtime.devices import training_autocast

LEARNING_RATE = 1e-3
WARMUP_STEPS = 100
KL_WEIGHT = 1e-3  # heavier than usual: smooth latents matter more to a small transformer than the last decibel
GRADIENT_WEIGHT = 0.5  # weight of the image-gradient term, which keeps outlines sharp
PERCEPTUAL_WEIGHT = 0.3
PERCEPTUAL_SIZE = 128  # pixels that MobileNetV2 sees: below, its first strides leave nothing of a 64-pixel drawing
PERCEPTUAL_LAYERS = (1, 3, 6, 10)  # whose outputs are compared: strides 2 to 16
LOG_SECONDS = 5.0


def build_autoencoder() -> AutoencoderKL:
    """An AutoencoderKL of 3.6M parameters: factor 4, 4 latent channels, no attention."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(48, 96, 144),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=12,
        sample_size=64,
        mid_block_add_attention=False,
    )


def load_pictures(pictures: list[Image.Image]) -> Tensor:
    """Stack RGB pictures of one size as a uint8 tensor `[N, 3, H, W]`."""
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def to_floats(pictures: Tensor) -> Tensor:
    """Uint8 pictures in [-1, 1], channels last."""
    return (pictures.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., :, 1:] - images[..., :, :-1]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + L2 + 0.5 x L1 of the image gradients, over `[B, 3, H, W]`."""
    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(output), gradients(target), strict=True))
    return F.l1_loss(output, target) + F.mse_loss(output, target) + GRADIENT_WEIGHT * edges


class PerceptualLoss:
    """How far apart pictures are in MobileNetV2's early features, each scaled to length 1 (as LPIPS, Zhang et al. 2018)."""

    def __init__(self, device: torch.device) -> None:
        network = load_network(MobileNetV2(), find_weights()).network
        assert isinstance(network, MobileNetV2)
        self._layers = list(network.features.to(device).children())[: PERCEPTUAL_LAYERS[-1] + 1]
        self._mean, self._std = network.mean.to(device), network.std.to(device)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean squared difference, summed over the layers, of pictures `[B, 3, H, W]` in [-1, 1]."""
        x = F.interpolate(torch.cat([output, target]), (PERCEPTUAL_SIZE, PERCEPTUAL_SIZE), mode="bilinear", align_corners=False)
        x = ((x + 1) / 2 - self._mean) / self._std
        loss = output.new_zeros(())
        for index, layer in enumerate(self._layers):
            x = layer(x)
            if index in PERCEPTUAL_LAYERS:
                ours, theirs = F.normalize(x.float(), dim=1).chunk(2)
                loss = loss + (ours - theirs).square().sum(dim=1).mean()
        return loss


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKL, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of `[N, 3, H, W]` uint8 pictures through the autoencoder's mean."""
    errors = []
    for chunk in pictures.split(64):
        images = to_floats(chunk.to(model.device))
        output = model.decode(model.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append(((output - images) / 2).square().mean(dim=(1, 2, 3)))
    return float(-10 * torch.log10(torch.cat(errors)).mean())


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    """The means of the latents `[N, 4, 16, 16]` of uint8 pictures, unscaled, on the model's device."""
    means = []
    for chunk in pictures.split(512):
        with training_autocast(model.device):
            means.append(model.encode(to_floats(chunk.to(model.device))).latent_dist.mode().half())
    return torch.cat(means)


def train_autoencoder(
    pictures: Callable[[], Tensor], held_out: Tensor, batch: int, seconds: float, device: torch.device, seed: int = 0
) -> tuple[AutoencoderKL, dict[str, float]]:
    """Train for so many seconds on batches of uint8 pictures `[N, 3, 64, 64]`, asked for again at each line of the log.

    Returns the model in fp32 and the figures of the model card: steps, seconds and the reconstruction's PSNR on both sets.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True  # one shape of batch: worth a search for the fastest convolutions
    model = build_autoencoder().to(device, memory_format=torch.channels_last)
    perceptual = PerceptualLoss(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    train = pictures()
    began = logged = time.monotonic()
    step = 0
    while (now := time.monotonic()) - began < seconds or step == 0:
        step += 1
        done = min(1.0, (now - began) / seconds)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(step / WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * done)))
        images = to_floats(train[torch.randint(len(train), (batch,), device=train.device)].to(device))
        with training_autocast(device):
            posterior = model.encode(images).latent_dist
            output = model.decode(posterior.sample()).sample.float()
            features = perceptual(output, images)
        kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1.0 - posterior.logvar.float()).mean()
        reconstruction = reconstruction_loss(output, images)
        (reconstruction + PERCEPTUAL_WEIGHT * features + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if now - logged >= LOG_SECONDS:
            logged = now
            line = {"step": step, "reconstruction": reconstruction.item(), "perceptual": features.item(), "kl": kl.item()}
            print(json.dumps({k: round(v, 4) for k, v in line.items()} | {"seconds": round(now - began)}), flush=True)
            train = pictures()
    model.eval()
    scale = 1 / float(encode(model, train[:1024]).float().std())
    model.register_to_config(scaling_factor=scale)
    figures = {
        "steps": float(step),
        "seconds": time.monotonic() - began,
        "psnr_train": reconstruction_psnr(model, train[: len(held_out)]),
        "psnr_held_out": reconstruction_psnr(model, held_out),
    }
    return model, figures


def save_autoencoder(model: AutoencoderKL, folder: Path) -> None:
    """Write half-precision weights in diffusers' layout; the model is moved to the CPU."""
    model.to("cpu", memory_format=torch.contiguous_format).half().save_pretrained(folder)
