"""Turn noise into pictures: the denoising loop with classifier-free guidance, one seed for each image."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, DPMSolverMultistepScheduler
from PIL import Image
from torch import Tensor

from difffit_core.data.latents import at_once
from difffit_core.families.dit.network import null_label
from difffit_core.spec.generation import GenerationSpec, Scheduler

# Below this log signal-to-noise ratio DPM-Solver++ overflows on cosine schedules, whose last step is almost pure noise.
LAMBDA_MIN = -5.1
OURS = ("variance_type", "clip_sample", "thresholding", "algorithm_type", "timestep_spacing")  # what `scheduler_settings` sets

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_scheduler(base: Path, name: Scheduler, learned_variance: bool) -> Any:
    """A fresh diffusers scheduler of the base's noise schedule."""
    config = DDPMScheduler.load_config(base, subfolder="scheduler")
    kind, settings = scheduler_settings(config, name, learned_variance)
    # What one kind of scheduler is told means nothing to another.
    return kind.from_config({key: value for key, value in config.items() if key not in OURS}, **settings)


def scheduler_settings(config: Mapping[str, Any], name: Scheduler, learned_variance: bool) -> tuple[Any, dict[str, Any]]:
    """The class and what `from_config` must be told besides a base's own config, whatever that says of it."""
    common = {"thresholding": False}
    if name == "ddpm":
        variance = "learned_range" if learned_variance else "fixed_small"
        return DDPMScheduler, common | {"clip_sample": False, "timestep_spacing": "leading", "variance_type": variance}
    if name == "ddim":
        return DDIMScheduler, common | {"clip_sample": False, "timestep_spacing": "trailing"}
    solver = {"algorithm_type": "dpmsolver++", "timestep_spacing": "linspace", "variance_type": None}
    clipped = {"lambda_min_clipped": LAMBDA_MIN} if config["beta_schedule"] == "squaredcos_cap_v2" else {}
    return DPMSolverMultistepScheduler, common | solver | clipped


def learns_variance(model: Any) -> bool:
    """Whether a network predicts a variance beside each channel, as the published DiT and PixArt do."""
    return bool(model.config.out_channels == 2 * model.config.in_channels)


def sample_latents(model: DiTTransformer2DModel, base: Path, spec: GenerationSpec) -> Tensor:
    """Denoise one latent `[C, H, W]` of a DiT for each label of `spec`; returns `[N, C, H, W]`."""

    def predict(latents: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = model(latents, timestep=timesteps, class_labels=labels).sample
        return output

    labels = torch.tensor(spec.labels, device=model.device)
    nulls = torch.full_like(labels, null_label(model))
    shape = (model.config.in_channels, model.config.sample_size, model.config.sample_size)
    return denoise(predict, labels, nulls, shape, base, spec, learns_variance(model))


@torch.no_grad()
def denoise(
    predict: Predict,
    conditions: Tensor,
    nulls: Tensor,
    shape: tuple[int, int, int],
    base: Path,
    spec: GenerationSpec,
    learned_variance: bool = False,
) -> Tensor:
    """Denoise a latent of `shape` (C, H, W) for each of `conditions` `[N]`; returns `[N, C, H, W]` on their device.

    `predict` is the network: its output for latents `[M, C, H, W]`, timesteps `[M]` and conditions `[M]`, whose meaning is its
    own. Guidance follows Ho & Salimans 2022: `uncond + scale * (cond - uncond)`, where `nulls` `[N]` are the conditions of the
    unconditional branch; at scale 1 or 0 only one branch is run. Noise is drawn on the CPU from each picture's own
    seed, so that a picture does not depend on the device's generator. Of `spec`, the labels are not read.
    """
    scheduler = make_scheduler(base, spec.scheduler, learned_variance)
    generators = [torch.Generator().manual_seed(spec.seed + i) for i in range(len(conditions))]
    latents: Tensor = torch.stack([torch.randn(*shape, generator=g) for g in generators]).to(conditions.device)
    scheduler.set_timesteps(spec.steps)
    latents = latents * scheduler.init_noise_sigma
    channels = shape[0]
    extra = {} if spec.scheduler == "dpmsolver++" else {"generator": generators}
    for timestep in scheduler.timesteps:
        timesteps = timestep.to(latents.device).expand(len(latents))
        if spec.guidance_scale == 1:
            output = predict(latents, timesteps, conditions).float()
        elif spec.guidance_scale == 0:
            output = predict(latents, timesteps, nulls).float()
        else:
            both = predict(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), torch.cat([conditions, nulls])).float()
            conditional, unconditional = both.chunk(2)
            output = conditional.clone()  # a learned variance is the conditional branch's
            guided = unconditional + spec.guidance_scale * (conditional - unconditional)
            output[:, :channels] = guided[:, :channels]
        if learned_variance and spec.scheduler != "ddpm":
            output = output[:, :channels]
        latents = scheduler.step(output, timestep, latents, **extra)[0]
    return latents


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> list[Image.Image]:
    """RGB pictures of scaled latents `[N, C, H, W]`, in fp32 whatever autocast says."""
    pictures, enlarged = [], 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = (side * enlarged for side in latents.shape[-2:])
    for chunk in (latents / vae.config.scaling_factor).split(at_once(width, height)):
        with torch.autocast(vae.device.type, enabled=False):
            pixels = vae.decode(chunk.to(vae.device)).sample  # [B, 3, H, W] in [-1, 1]
        array = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pictures += [Image.fromarray(np.ascontiguousarray(picture)) for picture in array]
    return pictures


def grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Lay pictures out in rows of `columns`, each in a place that takes the largest, on white with a margin of 2 pixels."""
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures), strict=True))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 2) + 2, rows * (height + 2) + 2), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (2 + column * (width + 2), 2 + row * (height + 2)))
    return sheet
